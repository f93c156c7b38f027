r"""Trains the bundled model further on one GPU, in eight minutes.

python train.py --config=configs/demo_accelerator.py --config.data.root=IMAGES --workdir=RUN
"""

import ml_collections

from configs import demo
from vitdeblur_jax.checkpoints.load_save import BUNDLED_WEIGHTS


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = demo.get_config(str(BUNDLED_WEIGHTS / "demo.safetensors"))
    config.seed = 4
    config.num_steps = 1_000_000  # the time limit ends the run
    config.time_limit_s = 440.0
    config.batch_size = 64
    config.numerics.dtype = "bfloat16"
    config.data.synthesis.update(device=True, focused_share=0.15)
    config.optimizer.update(schedule="wsd", decay_share=0.3, learning_rate=8e-3, warmup_steps=100)
    config.log_every = 100
    config.save_every = 4000
    config.validation.update(every=4000, num_images=12)
    return config
