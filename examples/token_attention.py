"""Draws the attention of one token over an image for each block.

    python examples/token_attention.py token_attention.png

In all blocks of the bundled model except the first and the last, one to five tokens in arbitrary
places get half of the attention that does not go to the class token. The first block attends to all
walls, the decoder's last block to the surface around the token.
"""

import sys
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import vitdeblur_jax as vd
from vitdeblur_jax.data.image_io import read_rgb
from vitdeblur_jax.models.vitdeblur.configuration import token_grid

IMAGE = Path(__file__).parent / "images/defocused/building.jpg"
(FIGURE,) = sys.argv[1:] or ["token_attention.png"]
TOP, LEFT, SIDE, TOKEN = 60, 480, 202, (11, 13)

pretrained = vd.load_pretrained()
model = pretrained.model
image = read_rgb(IMAGE)
image = image[TOP : TOP + SIDE, LEFT : LEFT + SIDE] / np.float32(255)


@jax.jit
def projections(variables, images):
    """Returns queries, keys and values of each attention layer by its path: one forward."""
    _, kept = model.apply(
        variables,
        images,
        mutable="intermediates",
        capture_intermediates=lambda module, method: module.name == "qkv",
    )
    return kept["intermediates"]


def attention(qkv, heads):
    """Returns heads x tokens x tokens, class token first if there is one; each row adds up to 1."""
    tokens, width = qkv.shape
    query, key, _ = qkv.reshape(tokens, 3, heads, -1).transpose(1, 2, 0, 3)
    return jax.nn.softmax(query @ key.swapaxes(1, 2) * (width // 3 // heads) ** -0.5)


grid = token_grid(SIDE, model.tokenizer.patch_size, model.tokenizer.patch_stride)
token = TOKEN[0] * grid + TOKEN[1]
kept = projections(pretrained.variables, image[None])
maps = {}
for part in ("primary_encoder", "contextual_encoder", "decoder"):
    heads = getattr(model, part).num_heads
    for block, captured in sorted(kept[part].items()):
        (qkv,) = captured["attention"]["qkv"]["__call__"]
        of_tokens = attention(qkv[0], heads).mean(axis=0)[-(grid**2) :, -(grid**2) :]
        maps[f"{part} {block[-1]}"] = np.asarray(of_tokens[token]).reshape(grid, grid)
for name, weights in maps.items():
    most = np.sort(weights.ravel())[::-1].cumsum()
    print(f"{name}: half of its attention goes to {(most < most[-1] / 2).sum() + 1} of {grid**2}")

figure, axes = plt.subplots(2, 5, figsize=(10, 4.4), layout="constrained")
axes.flat[0].imshow(image)
axes.flat[0].plot(*[8 + 8 * place for place in TOKEN[::-1]], "r+", markersize=12)
for axis, (name, weights) in zip(axes.flat[1:], maps.items(), strict=True):
    axis.imshow(weights, vmax=np.quantile(weights, 0.99))
    axis.set_title(name, fontsize=8)
for axis in axes.flat:
    axis.axis("off")
figure.savefig(FIGURE, dpi=80)
