"""The file formats that are read and written, by the ending of a file's name."""

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}
FORMATS |= {".webp": "WEBP", ".bmp": "BMP"}
IMAGE_SUFFIXES = tuple(FORMATS)
