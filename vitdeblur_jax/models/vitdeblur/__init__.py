"""ViTDeblur."""
