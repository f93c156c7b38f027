r"""Train on DPDD's left and right views; the image head sees both, the encoders their mean.

    python train.py --config=configs/dpdd_dual_pixel.py --config.data.root=DPDD \
        --config.initial.encoder=mae_pretrain_vit_base.pth --workdir=RUN

As configs/dpdd.py but for the views, with the same reasons. A mirrored scene changes left and right
of the lens, so a horizontal flip also exchanges the views. The six channels of the image head's
first kernel have their place in the published code; no result with two views was published.

For a GPU of 80 GB, or several smaller ones. Not run to its end yet: there is no figure to state.
"""

import ml_collections

from configs import dpdd


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = dpdd.get_config()
    config.data.layout = "dpdd_dual_pixel"
    config.model.views = 2
    return config
