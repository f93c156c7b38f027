"""The published network in PyTorch, reimplemented from its description, as a baseline.

It takes a state dict of the released code and works like that code: explicit attention, the
concatenation that repeats the primary tokens, and the image head on the whole image. In training,
the encoders process the blurred and the sharp images in separate passes. Unlike that code, it adds
up the feature maps of the windows on the device.

Every function takes a `block`: `explicit_block`, as released, or `fused_block`, with PyTorch's
`scaled_dot_product_attention`.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from vitdeblur_jax.checkpoints.pretrained import Pretrained
from vitdeblur_jax.checkpoints.recognition import published_of

WINDOW, STRIDE, BATCH = 320, 94, 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Block = Callable[..., torch.Tensor]  # of weights, name, tokens, heads and epsilon


def weights_of(
    pretrained: Pretrained, position: np.ndarray, device: str = "cpu"
) -> dict[str, torch.Tensor]:
    """Returns a base model's weights for this module, with the resized position table."""
    model = pretrained.model
    state_dict = published_of(model).to_state_dict(model, pretrained.variables)
    arrays = {**state_dict, "position": np.asarray(position)[None]}
    colors = {"mean": np.float32(MEAN)[:, None, None], "std": np.float32(STD)[:, None, None]}
    return {k: torch.tensor(np.array(v), device=device) for k, v in {**arrays, **colors}.items()}


def trainable(weights: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Returns the weights that are trained, after switching on their gradients."""
    constant = ("position", "mean", "std")
    trained = [w for n, w in weights.items() if n not in constant and w.is_floating_point()]
    return [weight.requires_grad_() for weight in trained]


def _depth(weights, part):
    return sum(n.startswith(f"{part}.embed_blocks") and n.endswith("norm1.bias") for n in weights)


def _norm(weights, name, x, epsilon=1e-5):
    parameters = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return F.layer_norm(x, x.shape[-1:], *parameters, epsilon)


def _linear(weights, name, x):
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def explicit_block(weights, name, x, heads, epsilon):
    """A transformer block whose attention writes the scores to memory, as in the released code."""

    def attend(query, key, value):
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        return scores.softmax(-1) @ value

    return _block(weights, name, x, heads, epsilon, attend)


def fused_block(weights, name, x, heads, epsilon):
    """A transformer block with PyTorch's fused attention."""
    return _block(weights, name, x, heads, epsilon, F.scaled_dot_product_attention)


def _block(weights, name, x, heads, epsilon, attend):
    batch, tokens, width = x.shape
    qkv = _linear(weights, f"{name}.attn.qkv", _norm(weights, f"{name}.norm1", x, epsilon))
    qkv = qkv.reshape(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    mixed = attend(*qkv).transpose(1, 2).reshape(batch, tokens, width)
    x = x + _linear(weights, f"{name}.attn.proj", mixed)
    hidden = _linear(weights, f"{name}.mlp.fc1", _norm(weights, f"{name}.norm2", x, epsilon))
    return x + _linear(weights, f"{name}.mlp.fc2", F.gelu(hidden))


def encode(weights, windows, block: Block = explicit_block):
    """Returns the tokens after each primary block, and the normalized contextual tokens."""
    encoder = "primary_encoder.pretrain_mae"
    patches = F.conv2d(
        (windows - weights["mean"]) / weights["std"],
        weights[f"{encoder}.patch_embed.proj.weight"],
        weights[f"{encoder}.patch_embed.proj.bias"],
        stride=10,
    )
    position = weights["position"]
    x = patches.flatten(2).transpose(1, 2) + position[:, 1:]
    first = (weights[f"{encoder}.cls_token"] + position[:, :1]).expand(len(x), -1, -1)
    x = torch.cat([first, x], dim=1)
    primary = []
    for i in range(_depth(weights, "decoder")):  # each decoder block takes one output
        x = block(weights, f"{encoder}.blocks.{i}", x, heads=12, epsilon=1e-6)
        primary.append(x)
    for i in range(_depth(weights, "contextual_encoder")):
        x = block(weights, f"contextual_encoder.embed_blocks.{i}", x, heads=16, epsilon=1e-5)
    return primary, _norm(weights, "contextual_encoder.embed_norm", x)


def decode(weights, primary, contextual, block: Block = explicit_block):
    """Returns the decoder's feature maps, channels first."""
    primary, x = [tokens[:, 1:] for tokens in primary], contextual[:, 1:]
    primary[-1] = _norm(weights, "decoder.decoder_dnorm1", primary[-1])
    x = _norm(weights, "decoder.decoder_anorm", x)
    for i, tokens in enumerate(reversed(primary)):
        x = torch.cat([tokens, tokens, x], dim=2)
        x = _norm(weights, f"decoder.decoder_linears.{i}.0", x)
        x = _linear(weights, f"decoder.decoder_linears.{i}.1", x)
        x = block(weights, f"decoder.embed_blocks.{i}", x, heads=16, epsilon=1e-5)
    x = _linear(weights, "decoder.decoder_pred", _norm(weights, "decoder.decoder_norm", x))
    grid = math.isqrt(x.shape[1])
    x = x.reshape(-1, grid, grid, 10, 10, 24).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(-1, 24, 10 * grid, 10 * grid)


def features(weights, windows, block: Block = explicit_block):
    """Returns `(batch, 24, 310, 310)` maps of BGR windows `(batch, 3, 320, 320)` in [0, 1]."""
    primary, normalized = encode(weights, windows, block)
    contextual = normalized * weights["contextual_encoder.blur_parameter"]
    return decode(weights, primary, contextual, block)


def training_loss(weights, blurred, sharp, block: Block = explicit_block):
    """Returns the training loss of the released code, without the VICReg terms, which it only logs.

    Images are BGR, `(batch, 3, 360, 360)`, in [0, 1].
    """
    primary, normalized = encode(weights, blurred, block)
    contextual = normalized * weights["contextual_encoder.blur_parameter"]
    restored = _image_head(weights, blurred, decode(weights, primary, contextual, block))
    _, of_sharp = encode(weights, sharp, block)
    logits = [
        _linear(
            weights,
            "contextual_encoder.head",
            _norm(weights, "contextual_encoder.fc_norm", tokens[:, 1:].mean(dim=1)),
        )
        for tokens in (normalized, of_sharp)
    ]
    labels = [torch.zeros_like(logits[0]), torch.ones_like(logits[1])]
    classified = sum(map(F.binary_cross_entropy_with_logits, logits, labels))
    cosine = 1 - F.cosine_similarity(contextual, of_sharp, dim=-1).mean()
    charbonnier = ((restored - sharp) ** 2 + 1e-6).sqrt().mean()
    return charbonnier + 0.2 * (cosine + 0.3 * classified)


def restore(weights, image, window=WINDOW, stride=STRIDE, batch=BATCH, features=features):
    """Restores a BGR image `(3, height, width)` in [0, 1], both sides at least a window."""
    height, width = image.shape[1:]
    corners = [
        (y, x) for y in _starts(height, window, stride) for x in _starts(width, window, stride)
    ]
    side = window - 10
    total = torch.zeros(24, height - 10, width - 10, device=image.device)
    count = torch.zeros(height - 10, width - 10, device=image.device)
    for first in range(0, len(corners), batch):
        some = corners[first : first + batch]
        windows = torch.stack([image[:, y : y + window, x : x + window] for y, x in some])
        for (y, x), one in zip(some, features(weights, windows), strict=True):
            total[:, y : y + side, x : x + side] += one
            count[y : y + side, x : x + side] += 1
    return _image_head(weights, image[None], (total / count)[None])[0]


def _image_head(weights, images, maps):
    doubled = torch.cat([images, images], dim=1)
    joined = maps + _convolution(weights, "inputecoding_step", doubled)
    padded = F.pad(joined, (11, 11, 11, 11), mode="reflect")
    return _convolution(weights, "outputprojr_step", padded)


def _convolution(weights, name, images):
    return F.conv2d(images, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _starts(length, window, stride):
    return [*range(0, length - window, stride), length - window]
