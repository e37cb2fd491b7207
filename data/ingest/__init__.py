"""Importers: every one converts cameras, colour and masks to the house's conventions and says what it did."""
