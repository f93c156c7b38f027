r"""Trains MDP on DPDD, the Canon dual-pixel data set: phase 2 of its training.

    python train.py --config=configs/mdp.py --config.data.root=DPDD \
        --config.initial.checkpoint=mdp_phase_1_wacv.hdf5 --workdir=RUN

Published: crop 512, batch 8, images of 16 bits, 80 epochs of 350 steps, Adam with learning rate
6e-4, halved every 8 epochs, and the weights of MSE (1) and of the three terms of the views (0.2
each). Phase 2 starts from phase 1, whose published file is named above; without it, training starts
at random values.

Phase 1 is not included: it trains on DLDP's views, with the decoder of the sharp image frozen.

A published batch has eight crops of one image; here each crop is of another image. The network sees
the mean of both views; the published one sees the camera's combined image.

The authors name no hardware; a GPU with 40 GB should do. No run is complete yet, so there are no
results.
"""

import ml_collections

from vitdeblur_jax.training.defaults import default_config

EPOCH = 350  # steps


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's settings."""
    config = default_config("mdp_dual")
    config.data.update(layout="dpdd_dual_pixel", bit_depth=16, workers=8)
    config.data.horizontal_flip = False
    config.numerics.precision = "default"
    config.num_steps = 80 * EPOCH
    config.batch_size = 8
    config.crop = 512
    config.loss.update(charbonnier=0.0, mse=1.0, views=0.2, mean_of_views=0.2, view_difference=0.2)
    config.optimizer.update(
        learning_rate=6e-4,
        schedule="multistep",
        milestones=tuple(range(8 * EPOCH, 80 * EPOCH, 8 * EPOCH)),
        gamma=0.5,
        epsilon=1e-7,  # Keras's
        weight_decay=0.0,
    )
    config.validation.every = 2500
    config.validation.num_images = 16  # of the 74; 0 takes all
    return config
