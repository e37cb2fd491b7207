"""What a run would ask of its store, computed before it is submitted."""
