r"""Trains one model on DPDD, LFDOF and synthetic defocus together.

    python train.py --config=configs/mixture.py --config.data.sets.dpdd.root=DPDD \
        --config.data.sets.lfdof.root=LFDOF --config.data.sets.synthetic.root=IMAGES \
        --config.data.sets.realdof.root=REALDOF \
        --config.initial.encoder=mae_pretrain_vit_base.pth --workdir=RUN

Half of the examples of each batch come from LFDOF, a third from DPDD, the rest are sharp images
with synthetic defocus: any folder of IMAGES. The run validates with DPDD's validation split, which
selects the best checkpoint, with the scenes of LFDOF that are held out, and with RealDOF.
configs/dpdd.py lists the published settings and our choices; the mixture and its weights are our
choice.

Needs a GPU with 80 GB, or several smaller ones. No run is complete yet, so there are no results.
"""

import ml_collections

from configs import dpdd


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = dpdd.get_config()
    config.data.sets = {
        "dpdd": {"root": "", "layout": "dpdd"},
        "lfdof": {"root": "", "layout": "lfdof", "hold_out": 20},
        "synthetic": {"root": "", "kind": "synthetic"},
        "realdof": {"root": "", "layout": "realdof", "validation_split": "test"},
    }
    config.data.mixture = (("lfdof", 3.0), ("dpdd", 2.0), ("synthetic", 1.0))
    config.validation.sets = ("dpdd", "lfdof", "realdof")
    config.num_steps = 200_000
    config.optimizer.milestones = (100_000, 150_000, 180_000)
    return config
