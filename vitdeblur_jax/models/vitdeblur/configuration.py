"""The model's configurations: plain values, each a complete set of `ViTDeblur`'s attributes.

| key | meaning |
|---|---|
| window | side of the square that an image is restored in, pixels |
| training_window | side of the training crop; the position table is kept at this size's grid |
| patch_size, patch_stride | side of a token's patch and step between patches, pixels |
| pretraining_grid | side of the sin-cos position grid before it is resized, tokens |
| primary_width, _depth, _heads | channels, blocks, attention heads of the primary encoder |
| contextual_depth, _heads | blocks and heads of the contextual encoder, as wide as the primary |
| projector_widths | hidden and output channels of the projector that VICReg's terms use |
| decoder_width, _depth, _heads | of the decoder; block i takes in primary output depth - i |
| mlp_ratio | hidden channels of every block's perceptron over its width |
| feature_channels | channels of the map between decoder and image head |
| input_kernel, output_kernel | sides of the image head's two kernels, pixels, odd |
| views | 1, or 2 for dual-pixel images (left and right) |
| dtype | of the computation: "float32" or "bfloat16"; parameters are float32 |
| precision | of float32 products on GPU and TPU: "highest", "high" or "default" (fastest) |
| stride | step between an image's windows, pixels: smaller is slower and smoother; not a \
multiple of patch_stride, see `stride_note` |
| margin | pixels a side that an image is extended by, by reflection; 0 in the published code |
| remat | recompute each block in the backward pass: less memory, the same numbers |
"""

import math
from collections.abc import Mapping
from types import SimpleNamespace

import ml_collections

from vitdeblur_jax.utils.config_checks import (
    check_keys,
    check_values,
    choice,
    flag,
    integer,
    sequence,
)
from vitdeblur_jax.utils.errors import UserError, nearest

_MOST_PARAMETERS = 4 * 10**9
_MOST_TOKENS = 2**16  # of a window: attention compares all with all
_LARGEST_TABLE = 2**24  # values of the sin-cos table
_SIDE, _DEPTH, _WIDTH = integer(1, 8192), integer(1, 64), integer(1, 32768)
RULES = {
    **dict.fromkeys(("window", "training_window"), _SIDE),
    **dict.fromkeys(("patch_size", "patch_stride", "pretraining_grid"), integer(1, 256)),
    **dict.fromkeys(("primary_width", "decoder_width"), _WIDTH),
    **dict.fromkeys(("primary_depth", "contextual_depth", "decoder_depth"), _DEPTH),
    **dict.fromkeys(("primary_heads", "contextual_heads", "decoder_heads"), _WIDTH),
    "projector_widths": sequence(_WIDTH, length=2),
    "mlp_ratio": integer(1, 64),
    "feature_channels": integer(1, 4096),
    **dict.fromkeys(("input_kernel", "output_kernel"), integer(1, 255)),
    "views": integer(1, 2),
    "dtype": choice("float32", "bfloat16"),
    "precision": choice("highest", "high", "default"),
    "remat": flag(),
    "stride": _SIDE,
    "margin": integer(0, 8192),
}


def base() -> ml_collections.ConfigDict:
    """Returns the published model: MAE ViT-B/16 as primary encoder, 113.6 M parameters.

    The released checkpoints have 121.6 M: a fifth encoder block, which nothing uses, and the
    position table are counted in.
    """
    return ml_collections.ConfigDict(
        {
            "window": 320,
            "training_window": 360,
            "patch_size": 16,
            "patch_stride": 10,
            "pretraining_grid": 14,
            "primary_width": 768,
            "primary_depth": 4,
            "primary_heads": 12,
            "contextual_depth": 3,
            "contextual_heads": 16,
            "projector_widths": (256, 128),
            "decoder_width": 1024,
            "decoder_depth": 4,
            "decoder_heads": 16,
            "mlp_ratio": 4,
            "feature_channels": 24,
            "input_kernel": 11,
            "output_kernel": 13,
            "views": 1,
            "dtype": "float32",
            "precision": "highest",
            "remat": False,
            "stride": 94,
            "margin": 0,
        }
    )


def light() -> ml_collections.ConfigDict:
    """Returns a light model with TinyMIM's ViT-Ti as primary encoder, 7.8 M parameters.

    Known from the released code: the primary encoder (192 channels, 6 heads, the first 4 blocks)
    and its 31 x 31 position table, so a training window of 320. The rest of the authors' light
    model was never released. Our choice keeps the base model's depths and its ratio of decoder to
    encoder width (4 / 3), with heads of 32 channels as in the primary encoder.
    """
    config = base()
    config.update(
        training_window=320,
        primary_width=192,
        primary_heads=6,
        contextual_heads=6,
        decoder_width=256,
        decoder_heads=8,
    )
    return config


def tiny() -> ml_collections.ConfigDict:
    """Returns a model of 2.1 M parameters for two CPU cores: window 106, 12 x 12 tokens.

    Its margin keeps what the image head makes of the outer 11 pixels, half of its kernels' reach,
    out of the image. Its stride of 45 puts tokens at all 8 offsets of patch_stride.
    """
    config = base()
    config.update(
        window=106,
        training_window=106,
        patch_stride=8,
        pretraining_grid=12,
        primary_width=128,
        primary_heads=4,
        contextual_depth=2,
        contextual_heads=4,
        projector_widths=(64, 32),
        decoder_width=128,
        decoder_depth=3,
        decoder_heads=4,
        feature_channels=3,
        stride=45,
        margin=12,
    )
    return config


CONFIGURATIONS = {"base": base, "light": light, "tiny": tiny}


def named_configuration(name: str) -> ml_collections.ConfigDict:
    """Returns the configuration of that name; an unknown one is a `UserError` that lists them."""
    if name not in CONFIGURATIONS:
        raise UserError(
            f"there is no model configuration {name!r}{nearest(name, CONFIGURATIONS)}; "
            f"there are {', '.join(CONFIGURATIONS)}"
        )
    return CONFIGURATIONS[name]()


def complete_configuration(
    values: Mapping | ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
    """Returns `values` as a configuration, those it lacks taken from `base`.

    Raises:
      UserError: an unknown key (the nearest right one is named), or values that do not fit.
    """
    complete = base().to_dict()
    check_keys(values, complete, "the model")
    complete.update(values)
    if isinstance(complete["projector_widths"], list):
        complete["projector_widths"] = tuple(complete["projector_widths"])
    check_configuration(SimpleNamespace(**complete))
    return ml_collections.ConfigDict(complete)


def token_grid(side: int, patch_size: int, patch_stride: int) -> int:
    """Returns how many patches fit along `side` pixels."""
    return 1 + (side - patch_size) // patch_stride


def check_configuration(config) -> None:
    """Raises `UserError` with the numbers that disagree; `config` has the keys as attributes."""
    check_values(config, RULES)
    for part in ("primary", "contextual", "decoder"):
        width = config.decoder_width if part == "decoder" else config.primary_width
        heads = getattr(config, f"{part}_heads")
        if width % heads:
            raise UserError(f"{part}_heads must divide the width: {width} channels, {heads} heads")
    if config.primary_width % 4:
        raise UserError(
            "primary_width must be a multiple of 4 for the position embedding: "
            f"it is {config.primary_width}"
        )
    if config.decoder_depth > config.primary_depth:
        raise UserError(
            "each decoder block takes in one primary output: "
            f"decoder_depth is {config.decoder_depth}, primary_depth {config.primary_depth}"
        )
    if config.input_kernel % 2 == 0 or config.output_kernel % 2 == 0:
        raise UserError(
            "the image head's kernels must be odd: "
            f"input_kernel is {config.input_kernel}, output_kernel {config.output_kernel}"
        )
    for key in ("window", "training_window"):
        check_window(key, getattr(config, key), config)
    check_stride(config, config.stride)
    _check_size(config)


def _check_size(config):
    """Refuses what would take hours to trace or would not fit into memory."""
    grids = [
        token_grid(side, config.patch_size, config.patch_stride)
        for side in (config.window, config.training_window)
    ]
    for what, value, most in (
        ("the model's parameters", parameter_count(config), _MOST_PARAMETERS),
        ("the tokens of a window", max(grids) ** 2, _MOST_TOKENS),
        (
            "the values of the table of pretraining_grid",
            config.pretraining_grid**2 * config.primary_width,
            _LARGEST_TABLE,
        ),
    ):
        if value > most:
            raise UserError(f"{what} would number {value:,}; at most {most:,} are supported")


def parameter_count(config) -> int:
    """Returns the number of values in the model's variables, by arithmetic on the configuration.

    All collections count: "params", "batch_stats" and "position_embedding".

    Args:
      config: has the keys as attributes.
    """
    width, decoder_width = config.primary_width, config.decoder_width
    grid = token_grid(config.training_window, config.patch_size, config.patch_stride)
    tokenizer = (3 * config.patch_size**2 + 1) * width + width + (grid**2 + 1) * width
    encoders = (config.primary_depth + config.contextual_depth) * _block_size(config, width)
    hidden, output = config.projector_widths
    heads = 6 * width + 1 + (width + 5 + output) * hidden
    fused = 2 * width + decoder_width
    # The contextual tokens, as wide as the primary ones, come first into the decoder.
    fusions = (3 * width * (decoder_width + 2) + decoder_width) + (config.decoder_depth - 1) * (
        fused * (decoder_width + 2) + decoder_width
    )
    blocks = config.decoder_depth * _block_size(config, decoder_width)
    predicted = config.patch_stride**2 * config.feature_channels
    decoder = 4 * width + fusions + blocks + 2 * decoder_width + (decoder_width + 1) * predicted
    channels = config.feature_channels
    image_head = (6 * config.input_kernel**2 + 1 + 3 * config.output_kernel**2) * channels + 3
    return tokenizer + encoders + heads + decoder + image_head


def _block_size(config, width):
    return (4 + 2 * config.mlp_ratio) * width**2 + (9 + config.mlp_ratio) * width


def check_stride(config, stride: int) -> None:
    """Raises `UserError` unless windows `stride` pixels apart leave no gap between their maps."""
    side = config.window - config.input_kernel + 1
    if not 1 <= stride <= side:
        raise UserError(
            f"stride is {stride}; the feature map of a window is {side} pixels a side, so it must "
            f"be 1 to {side}"
        )


def stride_note(config, stride: int) -> str | None:
    """Returns a warning if `stride` repeats one token grid in all windows, or None.

    Each token's square of the feature map has slight seams at its borders. Averaging overlapping
    windows smooths them out only where the windows' token grids differ. The grids coincide if
    `stride` is a multiple of patch_stride. They differ most if `stride` is about half a
    patch_stride off a multiple, and together cover all offsets if both have no common divisor.

    Args:
      config: has the model's keys as attributes.
      stride: step between windows, pixels.
    """
    step = config.patch_stride
    if step == 1 or stride % step:
        return None
    shifts = [shift for shift in range(1, step) if math.gcd(shift, step) == 1]
    shift = min(shifts, key=lambda shift: (abs(2 * shift - step), shift))
    return (
        f"stride {stride} is a multiple of patch_stride {step}: the token grids of all windows "
        f"coincide, and edges may look beaded; stride {stride - shift} avoids that"
    )


def check_window(key: str, side: int, config) -> None:
    """Raises `UserError` unless a square of `side` pixels, called `key`, suits the model."""
    if side < config.patch_size:
        raise UserError(f"{key} is {side} pixels, smaller than patch_size {config.patch_size}")
    mapped = config.patch_stride * token_grid(side, config.patch_size, config.patch_stride)
    left = side - config.input_kernel + 1
    if mapped != left:
        raise UserError(
            f"{key} {side} with patch_size {config.patch_size} and patch_stride "
            f"{config.patch_stride} gives a map of {mapped} pixels a side, but input_kernel "
            f"{config.input_kernel} leaves {left}"
        )
    needed = max((config.input_kernel + config.output_kernel) // 2, config.output_kernel)
    if left < needed:
        raise UserError(
            f"{key} {side} leaves a map of {left} pixels a side; the image head's kernels of "
            f"{config.input_kernel} and {config.output_kernel} need {needed}"
        )
