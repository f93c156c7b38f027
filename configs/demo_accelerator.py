r"""Trains the bundled model further on one GPU, in less than eight minutes.

    python train.py --config=configs/demo_accelerator.py --config.data.root=IMAGES --workdir=RUN

The run takes `time_limit_s`, seven minutes, on a fast or a slow GPU; the start of Python comes on
top. A second try with other settings then fits into a quarter of an hour.

For a machine without a network, `python tools/pack_accelerator.py IMAGES PACK` packs the images and
the packages that such a machine lacks. There, `sh PACK/run.sh RUN` installs the packages in PACK
and runs the command above; more flags may follow, such as `--config.seed=5`.

Not run on a GPU yet: none was at hand. The choices follow from what was measured on CPUs:

- It has the settings of the last run of `configs/demo.py`, and starts from the bundled weights.
  These took twelve hours on one and two cores.
- The architecture is that of the bundled model, so that restoration takes no longer. A wider model
  gained nothing in 5250 steps (MODEL_CARD.md).
- Batches of 64 crops, eight times those of `configs/demo.py`: small steps would leave a GPU idle.
  The pairs are synthesized on the GPU, from images in its memory.
- bfloat16, as it costs at most 0.02 dB (docs/measured.md).
- Muon at 6e-3, the rate of the second and third run of `configs/demo.py`: constant, and in the last
  70 % of the time linearly to 0, as in the fifth, sixth, eighth and tenth.

It validates on the twelve held-out images before the first step, every 2000 steps and at the end.
If the result is better there than the bundled weights, and its edges are no more beaded, bundle it:
`python tools/bundle_weights.py RUN --recipe configs/demo_accelerator.py`. For a second try, train
as the model is used: `--config.tiling.train_stride=45 --config.crop=151 --config.batch_size=16`
takes four overlapping windows of each crop. That raised the gain on CPUs, but also the beads.

A rehearsal on two CPU cores installed the pack, trained, validated and saved. Its figures are in
docs/measured.md, "Accelerators".
"""

import ml_collections

from configs import demo
from vitdeblur_jax.checkpoints.load_save import BUNDLED_WEIGHTS


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = demo.get_config(f"eleventh,{BUNDLED_WEIGHTS / 'demo.safetensors'}")
    config.seed = 4
    config.time_limit_s = 420.0
    config.batch_size = 64
    config.data.synthesis.device = True
    config.optimizer.update(decay_share=0.7, learning_rate=6e-3, warmup_steps=100)
    config.log_every = 100
    config.save_every = 2000
    config.validation.update(every=2000, num_logged_images=0)  # a log of less than 1 MB
    return config
