"""Families of models: one module per system, its schema named in SCHEMA."""
