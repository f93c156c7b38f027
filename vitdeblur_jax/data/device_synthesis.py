"""Training batches of synthetic pairs, computed on the devices from images in their memory.

The batch of a step is a pure function of the images, the settings and the step: each row has its
own key, folded from the seed, the step and its place in the batch.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int32, Key, UInt8

from vitdeblur_jax.data.defocus.on_device.synthesis import synthesize
from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.image_io import as_8_bits, read_rgb, size_of
from vitdeblur_jax.data.sources import scene_length
from vitdeblur_jax.data.srgb import srgb_to_linear
from vitdeblur_jax.distributed.sharding import global_array, replicated, rows_of_this_process
from vitdeblur_jax.utils.errors import UserError

MOST_BYTES = 2**31 - 1  # an index into the pixels is an int32
ROWS_AT_ONCE = 16  # bounds the memory: about 0.4 GB for crops of 360 pixels
_VIEW = 3  # channels


class DeviceImages(NamedTuple):
    """Images of any sizes in device memory.

    Attributes:
        pixels: The sRGB values of all images, one after the other.
        starts: The place of each image's first value.
        sizes: Height and width of each image.
    """

    pixels: UInt8[Array, " values"]
    starts: Int32[Array, " images"]
    sizes: Int32[Array, "images 2"]


class Recipe(NamedTuple):
    """What a batch is computed by, apart from the images and the step; constants of a program.

    Attributes:
        settings: The distribution of scenes, lenses and cameras.
        seed: Seed of all draws.
        crop: Side of the crops, pixels.
        scene: Height and width of the part of an image in which a scene is drawn, around the crop.
        horizontal_flip: See `data.transforms.random_crop_and_flips`.
        vertical_flip: See `data.transforms.random_crop_and_flips`.
        quarter_turns: See `data.transforms.random_crop_and_flips`.
    """

    settings: SynthesisSettings
    seed: int
    crop: int
    scene: tuple[int, int]
    horizontal_flip: bool = True
    vertical_flip: bool = False
    quarter_turns: bool = False


def check_memory(images: Sequence[Path], key: str) -> None:
    """Raises `UserError` if the images have too many pixels for device memory.

    Reads the sizes in the headers of all files, and images whose header does not tell.

    Args:
        images: Files of the images.
        key: Key of the config that asks for them to be there.
    """
    sizes = (size_of(path) or read_rgb(path).shape for path in images)
    total = sum(_VIEW * size[0] * size[1] for size in sizes)
    if total > MOST_BYTES:
        raise UserError(
            f"{key}: the {len(images)} training images take {total / 2**30:.2f} GiB of device "
            f"memory, but at most {(MOST_BYTES + 1) / 2**30:g} GiB are supported; use fewer or "
            "smaller images, or set it to False"
        )


def place_images(images: Sequence[Path], mesh: Mesh) -> tuple[DeviceImages, tuple[int, int]]:
    """Reads all images and places them on each device of a mesh.

    Returns:
        The images; and the smallest height and the smallest width of them.

    Raises:
        UserError: A file cannot be read.
    """
    pixels = [as_8_bits(read_rgb(path)) for path in images]
    sizes = np.array([image.shape[:2] for image in pixels], np.int32)
    ends = np.cumsum([image.size for image in pixels])
    starts = np.concatenate(([0], ends[:-1])).astype(np.int32)
    whole = DeviceImages(np.concatenate([image.ravel() for image in pixels]), starts, sizes)
    place = functools.partial(global_array, sharding=replicated(mesh))
    return jax.tree.map(place, whole), tuple(sizes.min(0).tolist())


def scene_shape(smallest: tuple[int, int], crop: int) -> tuple[int, int]:
    """Returns the height and width of the scenes around the crops, which all images must hold.

    Raises:
        UserError: An image is smaller than the crop.
    """
    if crop > min(smallest):
        raise UserError(
            f"crop is {crop} pixels, but a training image has a side of {min(smallest)}; choose a "
            "smaller crop, or remove this image"
        )
    return tuple(scene_length(side, crop) for side in smallest)


def synthetic_device_batches(
    images: DeviceImages,
    order: Sequence[int] | grain.MapDataset[int],
    recipe: Recipe,
    batch_size: int,
    sharding: NamedSharding,
    first_step: int = 0,
) -> Iterator[dict[str, Array]]:
    """Yields the batches from a step on, without end.

    Args:
        images: The images, on all devices of the mesh.
        order: The index of the image of each example, from that of `first_step` on.
        recipe: How to compute a batch.
        batch_size: Batch size over all devices.
        sharding: Sharding of the batch.
        first_step: The step of the first batch.

    Yields:
        `blurred` (B x crop x crop x 3, or 6 with dual pixels) and `sharp` (B x crop x crop x 3),
        uint8, and `index` (B, int32), sharded over the devices.
    """
    rows = rows_of_this_process(sharding, batch_size)
    compute = _compiled(recipe, sharding)
    for taken in itertools.count():
        places = [(first_step + taken, row, order[taken * batch_size + row]) for row in rows]
        places = np.array(places, np.int32)
        yield compute(images, jax.make_array_from_process_local_data(sharding, places))


@functools.lru_cache(maxsize=8)
def _compiled(recipe: Recipe, sharding: NamedSharding):
    mesh, spec = sharding.mesh, sharding.spec
    is_cpu = mesh.devices.flat[0].platform == "cpu"

    def of_device(images, places):
        row = functools.partial(_example, images, recipe)
        # Not vmapped, a row skips the slices that its scene lacks: faster on a CPU.
        at_once = None if is_cpu else min(ROWS_AT_ONCE, len(places))
        return jax.lax.map(row, places, batch_size=at_once)

    of_all = jax.shard_map(
        of_device, mesh=mesh, in_specs=(PartitionSpec(), spec), out_specs=spec, check_vma=False
    )
    return jax.jit(of_all, out_shardings=sharding)


def _example(images: DeviceImages, recipe: Recipe, place: Int32[Array, "3"]) -> dict[str, Array]:
    """Returns an example; its place is (step, row of the batch, index of the image)."""
    step, row, index = place
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(recipe.seed), step), row)
    crop_key, pair_key, flip_key = jax.random.split(key, 3)
    scene, corner = _random_scene(crop_key, images, index, recipe)
    light = jnp.asarray(srgb_to_linear(np.arange(256) / 255), jnp.float32)[scene]
    pair = synthesize(pair_key, light, recipe.settings, corner, (recipe.crop, recipe.crop))
    pair = random_flips(
        flip_key,
        {"blurred": pair.blurred, "sharp": pair.sharp},
        horizontal_flip=recipe.horizontal_flip,
        vertical_flip=recipe.vertical_flip,
        quarter_turns=recipe.quarter_turns,
    )
    return {**pair, "index": index}


def _random_scene(
    key: Key[Array, ""], images: DeviceImages, index: Int32[Array, ""], recipe: Recipe
) -> tuple[UInt8[Array, "height width 3"], Int32[Array, "2"]]:
    """Returns the surroundings of a random crop, and the crop's corner in them."""
    size, shape = images.sizes[index], np.array(recipe.scene)
    corner = jax.random.randint(key, (2,), 0, size - recipe.crop + 1)
    first = jnp.clip(corner - (shape - recipe.crop) // 2, 0, size - shape)
    rows = (first[0] + jnp.arange(shape[0])) * size[1] + first[1]
    starts = images.starts[index] + _VIEW * rows
    width = _VIEW * recipe.scene[1]
    pixels = jax.vmap(lambda start: jax.lax.dynamic_slice(images.pixels, (start,), (width,)))
    return pixels(starts).reshape(*recipe.scene, _VIEW), corner - first


def random_flips(
    key: Key[Array, ""],
    images: dict[str, UInt8[Array, "side side channels"]],
    *,
    horizontal_flip: bool,
    vertical_flip: bool,
    quarter_turns: bool,
) -> dict[str, Array]:
    """Flips and turns images alike; see `data.transforms.random_crop_and_flips`."""
    flip_key, turn_key = jax.random.split(key)
    is_mirrored, is_upside_down = jax.random.bernoulli(flip_key, shape=(2,))
    turns = jax.random.randint(turn_key, (), 0, 4)

    def changed(image):
        mirrored = image[:, ::-1]
        if image.shape[-1] == 2 * _VIEW:  # a flip also swaps the halves of the lens
            mirrored = jnp.roll(mirrored, _VIEW, axis=-1)
        if horizontal_flip:
            image = jnp.where(is_mirrored, mirrored, image)
        if vertical_flip:
            image = jnp.where(is_upside_down, image[::-1], image)
        if quarter_turns:
            rotations = [functools.partial(jnp.rot90, k=k) for k in range(4)]
            image = jax.lax.switch(turns, rotations, image)
        return image

    return jax.tree.map(changed, images)
