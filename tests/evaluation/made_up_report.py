"""Scores and images of no real method, for tests of the report."""

import numpy as np

HOSTILE = (
    "</script><script>stolen=1</script>",
    "<!--<script>",
    '"><img src=x onerror=stolen=1>',
    "two\nlines & a quote'\u2028",
    "{{data}}{{policy}}",
    "no UTF-8 \udcff",
    "__proto__",
)


def made_up_scores(images: list[str], methods: dict[str, dict[str, float | None]]) -> dict:
    """What metrics.json would hold for methods that have this PSNR of these images."""
    return {
        **{"set": "pairs", "split": "test", "data": "somewhere", "versions": {"jax": "1"}},
        "definitions": {
            "psnr": {"title": "PSNR", "definition": "in dB", "better": "higher", "digits": 2},
            "mae": {"title": "MAE", "definition": "an error", "better": "lower", "digits": 3},
        },
        "images": images,
        "methods": [_method(name, images, figures) for name, figures in methods.items()],
        **{"comparisons": [], "published": {}, "notes": []},
    }


def noise(seed: int, *shape: int) -> np.ndarray:
    """An image of random colours."""
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def _method(name, images, figures):
    metrics = {image: {"psnr": psnr, "mae": _mae(psnr)} for image, psnr in figures.items()}
    values = list(figures.values())
    mean = None if None in values else float(np.mean(values))
    return {
        **{"name": name, "folder": name, "profile": "input", "rule": "by names", "notes": []},
        "partial": len(figures) < len(images),
        "missing": [image for image in images if image not in figures],
        "images": {
            image: {"file": image, "size_note": "", "metrics": of} for image, of in metrics.items()
        },
        "mean": {"psnr": mean, "mae": _mae(mean)},
        "interval": {"psnr": mean and [mean - 1, mean + 1], "mae": None},
        "subsets": {},
    }


def _mae(psnr):
    return 0.0 if psnr is None else 10 ** (-psnr / 20)
