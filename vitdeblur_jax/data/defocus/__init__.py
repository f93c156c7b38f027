"""Synthetic defocus: apertures, the thin lens, and training pairs from sharp images."""
