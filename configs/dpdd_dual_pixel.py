r"""Trains on DPDD's left and right views; the image head sees both, the encoders their mean.

    python train.py --config=configs/dpdd_dual_pixel.py --config.data.root=DPDD \
        --config.initial.encoder=mae_pretrain_vit_base.pth --workdir=RUN

This is configs/dpdd.py with two views; all choices have the same reasons. Mirroring a scene swaps
the left and right halves of the lens, so a horizontal flip also swaps the views. The published code
defines the six input channels of the image head's first kernel, but no result with two views is
published.

Needs a GPU with 80 GB, or several smaller ones. No run is complete yet, so there are no results.
"""

import ml_collections

from configs import dpdd


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = dpdd.get_config()
    config.data.layout = "dpdd_dual_pixel"
    config.model.views = 2
    return config
