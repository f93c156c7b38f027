"""The local page of `vitdeblur web`; needs the extra `web`."""
