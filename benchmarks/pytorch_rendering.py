"""The published network in eager PyTorch, reimplemented from its description, as a baseline.

It takes a state dict of the released code and works like that code: one window size, explicit
attention, the concatenation that repeats the primary tokens, 16 windows at once, all feature maps
as float64 in memory, and the image head on the whole image. In training, the encoders process the
blurred and the sharp images in separate passes.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

WINDOW, STRIDE, BATCH = 320, 94, 16
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def weights_of(pretrained, position):
    """Returns a base model's weights for this module, with the resized position table."""
    state_dict = variables_to_reference(pretrained.variables, pretrained.config)
    weights = {name: torch.tensor(np.array(value)) for name, value in state_dict.items()}
    return {**weights, "position": torch.tensor(np.array(position))[None]}


def _norm(weights, name, x, epsilon=1e-5):
    parameters = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return F.layer_norm(x, x.shape[-1:], *parameters, epsilon)


def _linear(weights, name, x):
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _block(weights, name, x, heads, epsilon):
    batch, tokens, width = x.shape
    qkv = _linear(weights, f"{name}.attn.qkv", _norm(weights, f"{name}.norm1", x, epsilon))
    qkv = qkv.reshape(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    scores = (qkv[0] * (width // heads) ** -0.5) @ qkv[1].transpose(-2, -1)
    mixed = (scores.softmax(-1) @ qkv[2]).transpose(1, 2).reshape(batch, tokens, width)
    x = x + _linear(weights, f"{name}.attn.proj", mixed)
    hidden = _linear(weights, f"{name}.mlp.fc1", _norm(weights, f"{name}.norm2", x, epsilon))
    return x + _linear(weights, f"{name}.mlp.fc2", F.gelu(hidden))


def encode(weights, windows):
    """Returns the tokens after each primary block, and the normalized contextual tokens."""
    encoder = "primary_encoder.pretrain_mae"
    patches = F.conv2d(
        (windows - MEAN) / STD,
        weights[f"{encoder}.patch_embed.proj.weight"],
        weights[f"{encoder}.patch_embed.proj.bias"],
        stride=10,
    )
    position = weights["position"]
    x = patches.flatten(2).transpose(1, 2) + position[:, 1:]
    first = (weights[f"{encoder}.cls_token"] + position[:, :1]).expand(len(x), -1, -1)
    x = torch.cat([first, x], dim=1)
    primary = []
    for i in range(4):
        x = _block(weights, f"{encoder}.blocks.{i}", x, heads=12, epsilon=1e-6)
        primary.append(x)
    for i in range(3):
        x = _block(weights, f"contextual_encoder.embed_blocks.{i}", x, heads=16, epsilon=1e-5)
    return primary, _norm(weights, "contextual_encoder.embed_norm", x)


def decode(weights, primary, contextual):
    """Returns the decoder's feature maps, channels first."""
    primary, x = [tokens[:, 1:] for tokens in primary], contextual[:, 1:]
    primary[-1] = _norm(weights, "decoder.decoder_dnorm1", primary[-1])
    x = _norm(weights, "decoder.decoder_anorm", x)
    for i in range(4):
        x = torch.cat([primary[3 - i], primary[3 - i], x], dim=2)
        x = _norm(weights, f"decoder.decoder_linears.{i}.0", x)
        x = _linear(weights, f"decoder.decoder_linears.{i}.1", x)
        x = _block(weights, f"decoder.embed_blocks.{i}", x, heads=16, epsilon=1e-5)
    x = _linear(weights, "decoder.decoder_pred", _norm(weights, "decoder.decoder_norm", x))
    grid = math.isqrt(x.shape[1])
    x = x.reshape(-1, grid, grid, 10, 10, 24).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(-1, 24, 10 * grid, 10 * grid)


def features(weights, windows):
    """Returns `(batch, 24, 310, 310)` maps of BGR windows `(batch, 3, 320, 320)` in [0, 1]."""
    primary, normalized = encode(weights, windows)
    return decode(weights, primary, normalized * weights["contextual_encoder.blur_parameter"])


def training_loss(weights, blurred, sharp):
    """Returns the training loss of the released code, without the VICReg terms, which it only logs.

    Images are BGR, `(batch, 3, 360, 360)`, in [0, 1].
    """
    primary, normalized = encode(weights, blurred)
    contextual = normalized * weights["contextual_encoder.blur_parameter"]
    restored = _image_head(weights, blurred, decode(weights, primary, contextual))
    _, of_sharp = encode(weights, sharp)
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


def restore(weights, image):
    """Restores a BGR image `(3, height, width)` in [0, 1], both sides at least 320."""
    height, width = image.shape[1:]
    corners = [(y, x) for y in _starts(height) for x in _starts(width)]
    windows = torch.stack([image[:, y : y + WINDOW, x : x + WINDOW] for y, x in corners])
    maps = np.zeros((len(corners), 24, WINDOW - 10, WINDOW - 10))
    for first in range(0, len(corners), BATCH):
        maps[first : first + BATCH] = features(weights, windows[first : first + BATCH]).numpy()
    total = torch.zeros(24, height - 10, width - 10)
    count = torch.zeros(height - 10, width - 10)
    for (y, x), one in zip(corners, maps, strict=True):
        total[:, y : y + WINDOW - 10, x : x + WINDOW - 10] += torch.from_numpy(one)
        count[y : y + WINDOW - 10, x : x + WINDOW - 10] += 1
    return _image_head(weights, image[None], (total / count)[None])[0]


def _image_head(weights, images, maps):
    doubled = torch.cat([images, images], dim=1)
    joined = maps + _convolution(weights, "inputecoding_step", doubled)
    padded = F.pad(joined, (11, 11, 11, 11), mode="reflect")
    return _convolution(weights, "outputprojr_step", padded)


def _convolution(weights, name, images):
    return F.conv2d(images, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _starts(length):
    return [*range(0, length - WINDOW, STRIDE), length - WINDOW]
