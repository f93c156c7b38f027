"""Makes the weights that come with the package from a run.

    python tools/bundle_weights.py RUN [configs/demo.py]

RUN is the workdir of the last run, whose best checkpoint is taken. The second argument is the
config that describes it. Writes `vitdeblur_jax/weights/demo.safetensors` in half precision. Beside
the model's configuration it holds the name of the config, the digest of its values, the step and
the licence. Afterwards, `python -m benchmarks.bundled_weights` prints the figures for
MODEL_CARD.md.
"""

import hashlib
import sys
from pathlib import Path

from vitdeblur_jax.checkpoints.load_save import BUNDLED_WEIGHTS, load_pretrained, save_pretrained

LICENCE = "Apache-2.0; trained on the images that MODEL_CARD.md credits"


def main(run: str, recipe: str = "configs/demo.py") -> None:
    """Writes the file and prints its path."""
    pretrained = load_pretrained(run, network="tiny")  # without the tiling of the training
    config = (Path(run) / "config.json").read_bytes()
    metadata = {
        "recipe": recipe,
        "recipe_sha256": hashlib.sha256(config).hexdigest(),
        "step": Path(pretrained.source).name,
        "licence": LICENCE,
    }
    destination = BUNDLED_WEIGHTS / "demo.safetensors"
    save_pretrained(pretrained, destination, overwrite=True, half=True, metadata=metadata)
    print(f"{pretrained.source} -> {destination}, {destination.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
