r"""Train, resume, save, load and restore with a network of your own.

    python examples/own_network.py WORKDIR

Any Flax module from images to images will do; nothing has to be registered.
"""

import sys
from pathlib import Path

import flax.linen as nn

import vitdeblur_jax as vd
from vitdeblur_jax.data.image_io import read_image
from vitdeblur_jax.training import default_config, train

IMAGES = Path(__file__).parent / "images/sharp"


class OwnNetwork(nn.Module):
    @nn.compact
    def __call__(self, image):
        x = nn.relu(nn.Conv(16, (5, 5))(image))
        return image + nn.Conv(3, (5, 5), kernel_init=nn.initializers.zeros)(x)


def main(workdir: str, num_steps: int = 40) -> None:
    config = default_config()
    config.data.update(kind="synthetic", root=str(IMAGES), hold_out=1)
    config.update(crop=64, batch_size=4, log_every=10, save_every=10)
    config.validation.update(every=num_steps, num_images=1)
    config.optimizer.update(learning_rate=1e-3, schedule="constant")
    for config.num_steps in (num_steps // 2, num_steps):  # the second run resumes the first
        train(config, workdir, network=OwnNetwork())

    pretrained = vd.load_pretrained(workdir, network=OwnNetwork())
    vd.save_pretrained(pretrained, f"{workdir}/own.safetensors", overwrite=True)
    pretrained = vd.load_pretrained(f"{workdir}/own.safetensors", network=OwnNetwork())
    image = read_image(next(IMAGES.glob("*.jpg"))).pixels
    print("restored", vd.deblur(image, pretrained).shape, "with", pretrained)


if __name__ == "__main__":
    main(*sys.argv[1:])
