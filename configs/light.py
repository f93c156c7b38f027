r"""Train the light model on DPDD, with TinyMIM's ViT-Ti as primary encoder.

    python train.py --config=configs/light.py --config.data.root=DPDD \
        --config.initial.encoder=TINYMIM_CHECKPOINT.pth --workdir=RUN

7.8 M parameters. The authors released the primary encoder of their light model and nothing else of
it; `light` in `vitdeblur_jax.models.vitdeblur.configuration` says what is our choice. So is what
configs/dpdd.py calls so; small as the model is, the encoder is trained with a tenth of the learning
rate, the crop is the model's own window of 320 and the batch twice as large.

For one GPU of 24 GB. Not run to its end yet: there is no figure to state.
"""

import ml_collections

from configs import dpdd
from vitdeblur_jax.models.vitdeblur.configuration import light


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = dpdd.get_config()
    config.model = light()
    config.model.update(dtype="bfloat16", precision="default")
    config.crop = 320
    config.batch_size = 32
    config.optimizer.learning_rate_factors.update(tokenizer=0.1, primary_encoder=0.1)
    return config
