"""ViTDeblur's configurations: nested plain values, one group for each part.

| key | meaning |
|---|---|
| tokenizer.patch_size, .patch_stride | side of a token's patch and step between patches, pixels |
| tokenizer.position_grid | side of the position table, tokens: that of a training crop |
| tokenizer.pretraining_grid | side of the sin-cos grid before it is resized, tokens |
| primary_encoder.width, .depth, .num_heads | channels, blocks, attention heads |
| contextual_encoder.depth, .num_heads | blocks and heads; as wide as the primary encoder |
| contextual_encoder.projector_widths | hidden and output channels of VICReg's projector |
| decoder.width, .depth, .num_heads | block i takes primary output depth - i |
| decoder.patch_overlap | pixels by which a token's prediction exceeds patch_stride on each side, \
added to its neighbours' there; 0 in the published model |
| image_head.features | channels of the feature map between decoder and image head |
| image_head.input_kernel, .output_kernel | sides of its two kernels, pixels, odd |
| mlp_ratio | hidden channels of every block's MLP over its width |
| views | 1, or 2 for dual-pixel images (left and right) |

The tiling of a large image is not part of the architecture:

| key | meaning |
|---|---|
| window | side of the square windows, pixels |
| stride | step between windows, pixels: smaller is slower and smoother; not a multiple of \
patch_stride, see `stride_note` |
| margin | pixels by which an image is reflected on each side; 0 in the published code |
| train_stride | training: step between windows of a crop whose feature maps are averaged as in \
restoration; 0: the crop is one window, as published |
"""

import ml_collections

from vitdeblur_jax.models.tilings import Windows, check_stride
from vitdeblur_jax.utils.config_checks import check_paths, check_values, integer, sequence
from vitdeblur_jax.utils.errors import UserError

_MOST_PARAMETERS = 4 * 10**9
_MOST_TOKENS = 2**16  # of a window; attention is quadratic in it
_LARGEST_TABLE = 2**24  # values of the sin-cos table
_SIDE, _DEPTH, _WIDTH = integer(1, 8192), integer(1, 64), integer(1, 32768)
RULES = {
    "tokenizer.patch_size": integer(1, 256),
    "tokenizer.patch_stride": integer(1, 256),
    "tokenizer.position_grid": integer(1, 256),
    "tokenizer.pretraining_grid": integer(1, 256),
    "primary_encoder.width": _WIDTH,
    "primary_encoder.depth": _DEPTH,
    "primary_encoder.num_heads": _WIDTH,
    "contextual_encoder.depth": _DEPTH,
    "contextual_encoder.num_heads": _WIDTH,
    "contextual_encoder.projector_widths": sequence(_WIDTH, length=2),
    "decoder.width": _WIDTH,
    "decoder.depth": _DEPTH,
    "decoder.num_heads": _WIDTH,
    "decoder.patch_overlap": integer(0, 256),
    "image_head.features": integer(1, 4096),
    "image_head.input_kernel": integer(1, 255),
    "image_head.output_kernel": integer(1, 255),
    "mlp_ratio": integer(1, 64),
    "views": integer(1, 2),
}
TILING_RULES = {
    "window": _SIDE,
    "stride": _SIDE,
    "margin": integer(0, 8192),
    "train_stride": integer(0, 8192),
}


def base() -> ml_collections.ConfigDict:
    """Returns the published model: MAE ViT-B/16 as primary encoder, 113.6 M parameters.

    The released checkpoints have 121.6 M: they also hold the position table and a fifth encoder
    block that the network does not use.
    """
    return ml_collections.ConfigDict(
        {
            "tokenizer": {
                "patch_size": 16,
                "patch_stride": 10,
                "position_grid": 35,  # of a training crop of 360 pixels
                "pretraining_grid": 14,
            },
            "primary_encoder": {"width": 768, "depth": 4, "num_heads": 12},
            "contextual_encoder": {"depth": 3, "num_heads": 16, "projector_widths": (256, 128)},
            "decoder": {"width": 1024, "depth": 4, "num_heads": 16, "patch_overlap": 0},
            "image_head": {"features": 24, "input_kernel": 11, "output_kernel": 13},
            "mlp_ratio": 4,
            "views": 1,
        }
    )


def light() -> ml_collections.ConfigDict:
    """Returns a light model with TinyMIM's ViT-Ti as primary encoder, 7.8 M parameters.

    The released code gives the primary encoder (192 channels, 6 heads, the first 4 blocks) and its
    31 x 31 position table, which implies a training crop of 320. The rest of the authors' light
    model is not public. This configuration keeps the base model's depths, its ratio of decoder to
    encoder width (4 / 3), and the primary encoder's 32 channels per head.
    """
    config = base()
    config.tokenizer.position_grid = 31
    config.primary_encoder.update(width=192, num_heads=6)
    config.contextual_encoder.num_heads = 6
    config.decoder.update(width=256, num_heads=8)
    return config


def tiny() -> ml_collections.ConfigDict:
    """Returns a model of 2.1 M parameters for a small CPU: 12 x 12 tokens in a window of 106."""
    config = base()
    config.tokenizer.update(patch_stride=8, position_grid=12, pretraining_grid=12)
    config.primary_encoder.update(width=128, num_heads=4)
    config.contextual_encoder.update(depth=2, num_heads=4, projector_widths=(64, 32))
    config.decoder.update(width=128, depth=3, num_heads=4)
    config.image_head.features = 3
    return config


CONFIGURATIONS = {"base": base, "light": light, "tiny": tiny}

# The margin of tiny keeps the border effects of the image head (11 pixels, half of its kernels'
# reach) out of the image. Its stride places tokens at all 8 offsets of patch_stride.
TILINGS = {
    "base": {"window": 320, "stride": 94, "margin": 0, "train_stride": 0},
    "light": {"window": 320, "stride": 94, "margin": 0, "train_stride": 0},
    "tiny": {"window": 106, "stride": 45, "margin": 12, "train_stride": 0},
}


def make_tiling(config: ml_collections.ConfigDict, values: ml_collections.ConfigDict) -> Windows:
    """Returns the tiling of a model.

    Args:
      config: The architecture.
      values: The keys window, stride, margin and train_stride.

    Raises:
      UserError: A key is unknown, or window or stride do not fit the architecture.
    """
    check_paths(values, TILING_RULES, "tiling.")
    check_values(values, TILING_RULES, "tiling.")
    check_side("tiling.window", values.window, config)
    head = config.image_head
    tiling = Windows(
        size=values.window,
        stride=values.stride,
        margin=values.margin,
        trim=head.input_kernel // 2,
        reach=head.output_kernel // 2,
        period=config.tokenizer.patch_stride,
    )
    check_stride(tiling, tiling.stride)
    return tiling


def token_grid(side: int, patch_size: int, patch_stride: int) -> int:
    """Returns the number of patches that fit along `side` pixels."""
    return 1 + (side - patch_size) // patch_stride


def check_configuration(config: ml_collections.ConfigDict) -> None:
    """Raises `UserError` if values are invalid or contradict each other."""
    check_paths(config, RULES, "model.")
    check_values(config, RULES, "model.")
    width = config.primary_encoder.width
    for part, channels in (
        ("primary_encoder", width),
        ("contextual_encoder", width),
        ("decoder", config.decoder.width),
    ):
        heads = config[part].num_heads
        if channels % heads:
            raise UserError(
                f"model.{part}.num_heads must divide the width: {channels} channels, {heads} heads"
            )
    if width % 4:
        raise UserError(
            "model.primary_encoder.width must be a multiple of 4 for the position embedding: "
            f"it is {width}"
        )
    if config.decoder.depth > config.primary_encoder.depth:
        raise UserError(
            "each decoder block takes one primary output: model.decoder.depth is "
            f"{config.decoder.depth}, model.primary_encoder.depth {config.primary_encoder.depth}"
        )
    overlap, stride = config.decoder.patch_overlap, config.tokenizer.patch_stride
    if overlap > stride:
        raise UserError(
            f"model.decoder.patch_overlap is {overlap}; it must be at most "
            f"model.tokenizer.patch_stride, {stride}"
        )
    head = config.image_head
    if head.input_kernel % 2 == 0 or head.output_kernel % 2 == 0:
        raise UserError(
            "the image head's kernels must be odd: model.image_head.input_kernel is "
            f"{head.input_kernel}, output_kernel {head.output_kernel}"
        )
    _check_size(config)


def _check_size(config):
    """Rejects models that take hours to trace or do not fit into memory."""
    tokenizer = config.tokenizer
    for what, value, most in (
        ("the model's parameters", parameter_count(config), _MOST_PARAMETERS),
        ("the tokens of a training crop", tokenizer.position_grid**2, _MOST_TOKENS),
        (
            "the values of the table of pretraining_grid",
            tokenizer.pretraining_grid**2 * config.primary_encoder.width,
            _LARGEST_TABLE,
        ),
    ):
        _check_most(what, value, most)


def _check_most(what, value, most):
    if value > most:
        raise UserError(f"{what}: {value:,}; at most {most:,} are supported")


def parameter_count(config: ml_collections.ConfigDict) -> int:
    """Computes the number of values in the model's variables from the configuration.

    It includes all collections: "params", "batch_stats" and "position_embedding".
    """
    tokenizer, head = config.tokenizer, config.image_head
    width, decoder_width = config.primary_encoder.width, config.decoder.width
    embedding = (3 * tokenizer.patch_size**2 + 1) * width + width
    table = (tokenizer.position_grid**2 + 1) * width
    depth = config.primary_encoder.depth + config.contextual_encoder.depth
    encoders = depth * _block_size(config, width)
    hidden, output = config.contextual_encoder.projector_widths
    heads = 6 * width + 1 + (width + 5 + output) * hidden
    fused = 2 * width + decoder_width
    # The first fusion's input is the contextual tokens, which are as wide as the primary ones.
    fusions = (3 * width * (decoder_width + 2) + decoder_width) + (config.decoder.depth - 1) * (
        fused * (decoder_width + 2) + decoder_width
    )
    blocks = config.decoder.depth * _block_size(config, decoder_width)
    predicted = (tokenizer.patch_stride + 2 * config.decoder.patch_overlap) ** 2 * head.features
    decoder = 4 * width + fusions + blocks + 2 * decoder_width + (decoder_width + 1) * predicted
    kernels = 6 * head.input_kernel**2 + 1 + 3 * head.output_kernel**2
    return embedding + table + encoders + heads + decoder + kernels * head.features + 3


def _block_size(config, width):
    return (4 + 2 * config.mlp_ratio) * width**2 + (9 + config.mlp_ratio) * width


def check_side(key: str, side: int, config: ml_collections.ConfigDict) -> None:
    """Raises `UserError` unless the model can process squares of `side` pixels.

    `key` names the side in the message.
    """
    size, stride = config.tokenizer.patch_size, config.tokenizer.patch_stride
    head = config.image_head
    if side < size:
        raise UserError(f"{key} is {side} pixels, smaller than patch_size {size}")
    grid = token_grid(side, size, stride)
    left = side - head.input_kernel + 1
    if stride * grid != left:
        raise UserError(
            f"{key} {side} with patch_size {size} and patch_stride {stride} gives a map of "
            f"{stride * grid} pixels a side, but input_kernel {head.input_kernel} leaves {left}"
        )
    needed = max((head.input_kernel + head.output_kernel) // 2, head.output_kernel)
    if left < needed:
        raise UserError(
            f"{key} {side} leaves a map of {left} pixels a side; the image head's kernels of "
            f"{head.input_kernel} and {head.output_kernel} need {needed}"
        )
    _check_most("the tokens of a window", grid**2, _MOST_TOKENS)
