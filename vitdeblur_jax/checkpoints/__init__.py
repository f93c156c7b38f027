"""Load and save models."""
