"""Trains, resumes, saves, loads and restores with a network of your own.

    python examples/own_network.py WORKDIR

The network can be any Flax module that maps images to images.
"""

import sys
from pathlib import Path

import flax.linen as nn

import vitdeblur_jax as vd
from vitdeblur_jax.data.image_io import read_rgb
from vitdeblur_jax.training import default_config, train

IMAGES, WORKDIR = Path(__file__).parent / "images/sharp", sys.argv[1]


class OwnNetwork(nn.Module):
    @nn.compact
    def __call__(self, image):
        x = nn.relu(nn.Conv(16, (5, 5))(image))
        return image + nn.Conv(3, (5, 5), kernel_init=nn.initializers.zeros)(x)


config = default_config()
config.data.update(kind="synthetic", root=str(IMAGES), hold_out=1)
config.update(crop=64, batch_size=4, log_every=10, save_every=10)
config.validation.update(every=40, num_images=1)
config.optimizer.update(learning_rate=1e-3, schedule="constant")
for config.num_steps in (20, 40):  # the second run resumes the first
    train(config, WORKDIR, network=OwnNetwork())

pretrained = vd.load_pretrained(WORKDIR, network=OwnNetwork())
vd.save_pretrained(pretrained, f"{WORKDIR}/own.safetensors", overwrite=True)
pretrained = vd.load_pretrained(f"{WORKDIR}/own.safetensors", network=OwnNetwork())
sharp = vd.deblur(read_rgb(next(IMAGES.glob("*.jpg"))), pretrained)
print(f"restored {sharp.shape} with {pretrained}")
