"""One image of any size: tiling, restoration, files, export."""
