"""Makes the weights that come with the package from checkpoints of training runs.

    python tools/bundle_weights.py CHECKPOINT ... [--recipe configs/demo.py]

CHECKPOINT is the workdir of a run, whose best checkpoint is taken, or a step of it,
`RUN/checkpoints/STEP`. The parameters of several checkpoints are averaged; name one several times
to raise its weight. `--recipe` is the config that describes the runs. Writes
`vitdeblur_jax/weights/demo.safetensors` in half precision. Beside the model's configuration it
holds the name of the recipe, the digest of the runs' configs, the steps and the licence.
Afterwards, `python -m benchmarks.bundled_weights` prints the figures for MODEL_CARD.md.
"""

import argparse
import dataclasses
import hashlib
import sys
from pathlib import Path

import jax
import numpy as np

from vitdeblur_jax.checkpoints.load_save import BUNDLED_WEIGHTS, load_pretrained, save_pretrained
from vitdeblur_jax.cli.process import exit_status
from vitdeblur_jax.models import create_network, named_config
from vitdeblur_jax.utils.errors import UserError

LICENCE = "Apache-2.0; trained on the images that MODEL_CARD.md credits"


def main() -> None:
    """Writes the file and prints its path."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CHECKPOINT", help="a run or a step of it"
    )
    parser.add_argument("--recipe", default="configs/demo.py", help="the config of the runs")
    options = parser.parse_args()
    first, *others = options.checkpoints
    loaded = [load_pretrained(first)]
    if loaded[0].config is None:
        raise UserError(f"{first} is of a network outside the package, which cannot be bundled")
    loaded += [load_pretrained(path, loaded[0].model) for path in others]
    steps = [Path(pretrained.source) for pretrained in loaded]
    configs = b"".join((step.parents[1] / "config.json").read_bytes() for step in steps)
    metadata = {
        "recipe": options.recipe,
        "recipe_sha256": hashlib.sha256(configs).hexdigest(),
        "step": ", ".join(step.name for step in steps),
        "licence": LICENCE,
    }
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *(p.variables for p in loaded))
    destination = BUNDLED_WEIGHTS / "demo.safetensors"
    config, tiny = loaded[0].config, named_config("tiny")
    config.update(tiling=tiny.tiling, numerics=tiny.numerics)  # not those of training
    pretrained = dataclasses.replace(loaded[0], model=create_network(config), variables=mean)
    save_pretrained(pretrained, destination, overwrite=True, half=True, metadata=metadata)
    print(
        f"{', '.join(map(str, steps))} -> {destination}, {destination.stat().st_size / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    sys.exit(exit_status(main))
