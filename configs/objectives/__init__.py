"""What a system is trained on: one module per objective, its schema named in SCHEMA."""
