"""Trains with a custom objective: the Charbonnier loss plus a loss of the spectrum.

    python examples/fourier_loss.py examples/images/sharp RUN

The package's own Fourier loss needs no code: set `config.loss.fourier`. This file shows how to use
any other function of restored and sharp images; this one compares absolute values of the normalized
transform. The file can be in any folder and needs only the package. In 100 steps it gains 0.18 dB
on a held-out image, as much as without the spectral term.
"""

import functools
import sys

import jax.numpy as jnp
import ml_collections

from vitdeblur_jax.training import train
from vitdeblur_jax.training.defaults import default_config
from vitdeblur_jax.training.losses import charbonnier_loss
from vitdeblur_jax.training.objective import restoration_objective


def fourier_loss(restored, sharp):
    """Returns the mean absolute difference of the spectra, one number per image."""
    difference = jnp.fft.rfft2((restored - sharp)[:, 6:-6, 6:-6], axes=(1, 2), norm="ortho")
    return jnp.abs(difference).mean(axis=(1, 2, 3))


def loss(restored, sharp):
    return charbonnier_loss(restored, sharp, border=6) + 0.1 * fourier_loss(restored, sharp)


def get_config(images: str) -> ml_collections.ConfigDict:
    config = default_config("tiny")
    config.initial.update(identity_init=True, dct_init=True)
    config.data.update(kind="synthetic", root=images, hold_out=1)
    config.update(num_steps=100, batch_size=4, crop=106, ema_decay=0.95)
    config.update(log_every=10, save_every=50)
    config.loss.update(contextual_cosine=0.0, sharpness=0.0)  # the heads of the terms stay frozen
    config.optimizer.update(name="muon", learning_rate=6e-3, warmup_steps=20, clip_norm=1.0)
    config.optimizer.lr_mults = (("decoder/prediction/.*", 0.03), ("image_head/.*", 0.0017))
    config.validation.update(every=50, num_images=1, stride=90)
    return config


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    _, images, workdir = sys.argv
    objective = functools.partial(restoration_objective, loss=loss)
    sys.exit(train(get_config(images), workdir, objective))
