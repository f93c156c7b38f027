"""Checkpoints: loading, saving and converting models."""
