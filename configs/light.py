r"""Trains the light model on DPDD, with TinyMIM's ViT-Ti as primary encoder.

    python train.py --config=configs/light.py --config.data.root=DPDD \
        --config.initial.encoder=TINYMIM_CHECKPOINT.pth --workdir=RUN

7.8 M parameters. Of their light model, the authors released only the primary encoder. `light` in
`vitdeblur_jax.models.vitdeblur.configuration` lists our own choices for the rest; configs/dpdd.py
lists those for training. Because the model is small, four settings differ: the encoder trains with
a tenth of the learning rate, the crop is the model's own window of 320, the batch is twice as
large, and blocks are not rematerialized.

Needs one GPU with 24 GB. No run is complete yet, so there are no results.
"""

import ml_collections

from configs import dpdd
from vitdeblur_jax.models.networks import named_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = dpdd.get_config()
    config.update(named_config("light"))
    config.numerics.update(dtype="bfloat16", precision="default")
    config.crop = 320
    config.batch_size = 32
    config.optimizer.lr_mults = (("tokenizer/.*", 0.1), ("primary_encoder/.*", 0.1))
    return config
