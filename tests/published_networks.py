"""Helpers for tests of published networks: stand-in weights and the comparison of stages.

Golden files come in three forms, and the shapes of a checkpoint's entries in two.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util

from tests.stand_in_weights import noise_of
from vitdeblur_jax.models.network import abstract_variables
from vitdeblur_jax.models.published import (
    Entries,
    from_published,
    published_shapes,
    to_published,
)

PEERS = Path(__file__).parent / "data" / "peers"


def entry_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all entries of a checkpoint, by name."""
    entries = json.loads(path.read_text())
    pairs = [(e["name"], e["shape"]) if isinstance(e, dict) else e for e in entries]
    return {name: tuple(shape) for name, shape in pairs}


def stand_in_from_rules(path: Path, seed: int) -> dict[str, np.ndarray]:
    """Returns the stand-in weights of a file that states the rule of each entry."""
    return {entry["name"]: _by_rule(entry, seed) for entry in json.loads(path.read_text())}


def _by_rule(entry, seed):
    noise = noise_of(entry["name"], entry["shape"], seed)
    if entry["rule"] == "kernel":
        value = entry["gain"] * noise / np.sqrt(entry["fan_in"])
    else:
        value = entry["offset"] + entry["scale"] * noise
    return value.astype(np.float32)


def assert_stage(golden: Mapping, name: str, found, atol: float) -> None:
    """Asserts that a stage matches all of its entries in the golden file.

    Args:
      golden: The golden file.
      name: Name of the stage.
      found: Our array, (height, width, channels).
      atol: Bound of the absolute difference of values, and of their mean and standard deviation.
    """
    found = np.asarray(found)
    compared = [part for part in _PARTS if f"stage_{name}_{part}" in golden]
    assert len(compared) >= 2, f"the golden file has no stage {name}"
    for part in compared:
        expected = golden[f"stage_{name}_{part}"]
        np.testing.assert_allclose(
            _PARTS[part](found, expected.shape, golden.get(f"stage_{name}_step")),
            expected,
            rtol=0,
            atol=atol,
            err_msg=f"{name}, {part}",
        )


def _statistics(x, *_):
    return np.array([x.mean(dtype=np.float64), x.std(dtype=np.float64, ddof=1)])


def _middle(x, shape, _):
    rows, columns = (slice(max(n // 2 - 4, 0), n // 2 + 4) for n in x.shape[:2])
    return x[rows, columns, : shape[-1]]


def _first(x, shape, _):
    c, h, w = shape
    return x.transpose(2, 0, 1)[:c, :h, :w]


def _last(x, shape, _):
    c, h, w = shape
    return x.transpose(2, 0, 1)[-c:, -h:, -w:]


_PARTS = {
    "stats": _statistics,
    "stat": _statistics,
    "first": _first,
    "last": _last,
    "mid": _middle,
    "tl": lambda x, shape, _: x[: shape[0], : shape[1], : shape[2]],
    "br": lambda x, shape, _: x[-shape[0] :, -shape[1] :, : shape[2]],
    "values": lambda x, _, step: x.transpose(2, 0, 1)[:: step[0], :: step[1], :: step[2]],
}


def random_variables(network, image_shape: tuple[int, ...] | None = None) -> dict:
    """Returns variables for tests, none of them zero; kernels keep the scale of their input.

    Args:
      network: A network.
      image_shape: Shape of the input; None: what `abstract_variables` chooses.
    """
    rng = np.random.default_rng(0)
    if image_shape is None:
        shapes = abstract_variables(network)
    else:
        shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros(image_shape, np.float32))

    def fill(path, leaf):
        name, noise = path[-1].key, rng.standard_normal(leaf.shape)
        if name in ("scale", "var"):
            value = 1 + 0.1 * np.abs(noise)
        elif name == "kernel":
            value = noise / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            value = 0.1 * noise
        return jax.device_put(value.astype(leaf.dtype))

    return jax.tree_util.tree_map_with_path(fill, shapes)


def assert_converts_exactly(network, entries: Entries, published: Mapping[str, tuple]) -> None:
    """Asserts that the entries are a checkpoint's, and that conversion loses nothing.

    Args:
      network: The entries' module; only its shapes are computed.
      entries: The entries of all its variables.
      published: The shapes of the checkpoint's entries, by name.
    """
    shapes = traverse_util.flatten_dict(abstract_variables(network))
    flat = {path: leaf.shape for path, leaf in shapes.items()}
    assert set(flat) == set(entries)
    assert published_shapes(flat, entries) == published
    rng = np.random.default_rng(0)
    state_dict = {n: rng.random(shape, np.float32) for n, shape in published.items()}
    back = to_published(from_published(state_dict, entries), entries)
    for name, array in state_dict.items():
        np.testing.assert_array_equal(back[name], array)


def golden_image(golden: Mapping, *names: str) -> np.ndarray:
    """Returns an image or several views of a golden file as a network's batch of one."""
    return np.concatenate([golden[name] for name in names], axis=-1)[None] / np.float32(255)


def stages_of(network, variables: dict, image) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the output, and every module's by its path with slashes; the first of the batch."""
    run = jax.jit(lambda v, x: network.apply(v, x, capture_intermediates=True))
    output, state = run(variables, image)
    flat = traverse_util.flatten_dict(state["intermediates"])
    return np.asarray(output[0]), {
        "/".join(path[:-1]): np.asarray(jax.tree.leaves(value)[0][0])
        for path, value in flat.items()
    }


def tiled_output(apply, image: np.ndarray, tile: int, halo: int) -> np.ndarray:
    """Returns the output of tiles that read `halo` pixels more on each side, where there are."""
    _, height, width, _ = image.shape
    rows = []
    for y in range(0, height, tile):
        row = []
        for x in range(0, width, tile):
            top, left = max(y - halo, 0), max(x - halo, 0)
            output = apply(image[:, top : y + tile + halo, left : x + tile + halo])
            row.append(output[:, y - top : y - top + tile, x - left : x - left + tile])
        rows.append(np.concatenate(row, axis=2))
    return np.concatenate(rows, axis=1)


def assert_tiles_are_exact(
    network,
    variables: dict,
    shape: tuple[int, ...],
    tile: int,
    *,
    atol: float,
    too_small: int,
    visible: float,
) -> None:
    """Asserts that tiles equal the whole image, and that they would not with a smaller halo.

    Args:
      network: A network with `HaloTiles`.
      variables: Its variables.
      shape: Shape of the random image.
      tile: Side of the kept part of a tile, pixels.
      atol: Bound of the absolute difference.
      too_small: A halo that is too small.
      visible: With it, the largest difference exceeds this.
    """
    image = np.random.default_rng(0).random(shape, np.float32)
    apply = jax.jit(lambda x: network.apply(variables, x))
    whole = apply(image)
    tiled = tiled_output(apply, image, tile, network.tiling.halo)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=atol)
    assert np.abs(tiled_output(apply, image, tile, too_small) - whole).max() > visible


def furthest_column(network, variables: dict, corner: int, columns: Sequence[int]) -> int:
    """Returns how far away, at most, an input column is that an output column depends on.

    Gradients tell: however small they are, they don't drown in rounding as differences do.

    Args:
      network: A network for images of 3 channels.
      variables: From `one_sided_variables`.
      corner: The tap that they look at.
      columns: Of the output, all phases of the network's strides; the middle of the image.
    """
    width = columns[0] + columns[-1] + 1
    # What max pooling picks lies on the same side.
    ramp = np.linspace(1, 0.5, width, dtype=np.float32)[:: 1 if corner == 0 else -1]
    images = np.broadcast_to(ramp[:, None], (len(columns), 16, width, 3))

    network = network.clone(dtype="float64")

    def of_columns(images):
        output = network.apply(variables, images)
        # Some are as small as 1e-60, and float32 where they leave the network.
        return 1e30 * output[np.arange(len(columns)), :, np.array(columns)].sum()

    with jax.enable_x64(True):
        gradients = np.asarray(jax.jit(jax.grad(of_columns))(images))
    assert np.isfinite(gradients).all()
    which, seen = np.nonzero(gradients.any(axis=(1, 3)))
    assert 0 not in seen
    assert width - 1 not in seen
    return np.abs(seen - np.array(columns)[which]).max()


def one_sided_variables(network, image_shape: tuple[int, ...], corner: int) -> dict:
    """Returns positive variables whose kernels mostly look into one direction.

    What a pixel depends on farthest away in that direction then counts most, as far as the
    receptive field reaches; noise would let it die down.

    Args:
      network: A module.
      image_shape: Shape of an image that it takes.
      corner: Tap, along height and width, that the weight lies on: 0 or -1.
    """
    shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros(image_shape, np.float32))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        value = rng.uniform(0.5, 1, leaf.shape)
        if path[-1].key == "var":
            pass
        elif len(leaf.shape) == 4:
            weights = np.full(leaf.shape[:2], 0.02)
            weights[corner, corner] = 1
            value = value * weights[..., None, None] / (weights.sum() * leaf.shape[2])
        else:
            value = 0.01 * value
        return jax.device_put(value.astype(leaf.dtype))

    return jax.tree_util.tree_map_with_path(fill, shapes)


def assert_gradient_norms(
    golden: Mapping,
    network,
    variables: dict,
    entries: Entries,
    rtol: float,
    image: np.ndarray | None = None,
    in_golden_range: Callable = lambda output: output,
) -> None:
    """Asserts the mean of the squared output, and the norms of its gradients.

    Args:
      golden: A golden file with the loss and the norms, in one of two forms.
      network: The network.
      variables: Its variables, with the stand-in weights.
      entries: The entries of all variables.
      rtol: Bound of the relative difference.
      image: The file's `image_rgb` unless given.
      in_golden_range: Turns an output from [0, 1] into the range of the file.
    """
    if image is None:
        image = golden_image(golden, "image_rgb")

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        output = network.apply({**variables, "params": params}, image)
        return jax.numpy.mean(in_golden_range(output) ** 2)

    value, gradients = loss(variables["params"])
    (expected,) = (golden[x] for x in ("loss", "grad_loss", "loss_mean_sq") if x in golden)
    np.testing.assert_allclose(value, expected, rtol=rtol)
    entries = {path: entry for path, entry in entries.items() if path[0] == "params"}
    by_name = to_published({"params": gradients}, entries)
    expected = _gradient_norms(golden)
    assert expected
    for name, norm in expected.items():
        found = np.linalg.norm(by_name[name])
        np.testing.assert_allclose(found, norm, rtol=rtol, err_msg=name)


def _gradient_norms(golden):
    if "grad_names" in golden:
        return dict(zip(golden["grad_names"], golden["grad_norms"], strict=True))
    key = "gradnorm_"
    named = {n.removeprefix(key): x for n, x in golden.items() if n.startswith(key)}
    return {name.replace("|", "/"): norm for name, norm in named.items()}
