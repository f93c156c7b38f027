"""Synthetic defocus: apertures, thin-lens rendering, and training pairs from sharp images."""
