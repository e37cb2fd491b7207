"""One loop: engine, objectives, checkpoints, tracking, evaluation, export."""
