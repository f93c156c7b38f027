"""Inference: images of any size, image files, and exported models."""
