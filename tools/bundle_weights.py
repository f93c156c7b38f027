"""Makes the weights that come with the package of a run of `configs/demo.py`.

    python tools/bundle_weights.py RUN

RUN is the work folder of the run that came last. Writes `vitdeblur_jax/weights/demo.safetensors` in
half precision, with the step, the digest of the run's config and the licence beside the model's
configuration. What it says must still be true of MODEL_CARD.md: `python -m
benchmarks.bundled_weights` prints its figures.
"""

import hashlib
import sys
from pathlib import Path

from vitdeblur_jax.checkpoints.load_save import BUNDLED_WEIGHTS, load_pretrained, save_pretrained

LICENCE = "Apache-2.0; trained on the images that MODEL_CARD.md credits"


def main(run: str) -> None:
    """Writes the file and prints where."""
    pretrained = load_pretrained(run)
    config = (Path(run) / "config.json").read_bytes()
    metadata = {
        "recipe": "configs/demo.py",
        "recipe_sha256": hashlib.sha256(config).hexdigest(),
        "step": Path(pretrained.source).name,
        "licence": LICENCE,
    }
    destination = BUNDLED_WEIGHTS / "demo.safetensors"
    save_pretrained(pretrained, destination, overwrite=True, half=True, metadata=metadata)
    print(f"{pretrained.source} -> {destination}, {destination.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
