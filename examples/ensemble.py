"""Does the spread of an ensemble predict its error? Four models as one vmapped set of parameters.

    python examples/ensemble.py ensemble.png

Each member has its own initialization and its own pairs. After 60 steps, their spread says little
about the error of their mean on blocks of 8 x 8 pixels of unseen crops: the rank correlation was
0.38 on one draw of crops and 0.70 on another, and the spread is 2 to 30 times too small. The
contrast of the blurred crop, which needs no training, had 0.76 and 0.65.
"""

import functools
import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr

import vitdeblur_jax as vd
from vitdeblur_jax.data.input_pipeline import synthetic_batches
from vitdeblur_jax.data.transforms import unit_range
from vitdeblur_jax.models import initial_variables
from vitdeblur_jax.models.vitdeblur.initialization import dct_init, identity_init
from vitdeblur_jax.training.defaults import default_config
from vitdeblur_jax.training.losses import charbonnier_loss
from vitdeblur_jax.training.objective import restoration_objective
from vitdeblur_jax.training.optimizer import make_optimizer, make_schedule
from vitdeblur_jax.training.state import create_state
from vitdeblur_jax.training.step import train_step

IMAGES = sorted((Path(__file__).parent / "images/sharp").glob("*.jpg"))
(FIGURE,) = sys.argv[1:] or ["ensemble.png"]
MEMBERS, STEPS, BORDER, BLOCK = 4, 60, 13, 8  # 106 - 2 * 13 is 10 blocks

settings = default_config().optimizer
settings.update(name="muon", learning_rate=6e-3, warmup_steps=10, clip_norm=1.0)
settings.lr_mults = (("decoder/prediction/.*", 0.03), ("image_head/.*", 0.0017))
optimizer = make_optimizer(settings, make_schedule(settings, STEPS))
model = vd.create("tiny")
loss = functools.partial(charbonnier_loss, border=BORDER)
objective = functools.partial(restoration_objective, model, loss=loss)


def first_state(seed):
    variables = identity_init(dct_init(initial_variables(model, seed)))
    return create_state(variables, variables["params"], optimizer, with_ema=False)


def in_blocks(images):
    """Returns means over blocks of 8 x 8 pixels and all channels, without the border."""
    inside = np.asarray(images)[:, BORDER:-BORDER, BORDER:-BORDER].mean(axis=-1)
    side = inside.shape[1] // BLOCK
    return inside.reshape(-1, side, BLOCK, side, BLOCK).mean(axis=(2, 4)).ravel()


step = jax.jit(jax.vmap(functools.partial(train_step, objective=objective, optimizer=optimizer)))
states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(first_state, range(MEMBERS)))
batches = synthetic_batches(IMAGES[:3], seed=0, batch_size=2 * MEMBERS, crop=106)
for batch in itertools.islice(batches, STEPS):
    shares = {key: batch[key].reshape(MEMBERS, 2, 106, 106, 3) for key in ("blurred", "sharp")}
    states, _ = step(states, shares)

unseen = next(synthetic_batches(IMAGES[3:], seed=1, batch_size=16, crop=106))
blurred, sharp = unit_range(unseen["blurred"]), unit_range(unseen["sharp"])
restored = jax.jit(jax.vmap(model.apply, in_axes=(0, None)))(states.variables, blurred)
error = in_blocks(jnp.abs(restored.mean(axis=0) - sharp))
spread = in_blocks(restored.std(axis=0))
contrast = in_blocks(np.abs(np.gradient(blurred, axis=2)))
rank_correlation = spearmanr(spread, error).statistic
print(f"spread against error: rank correlation {rank_correlation:.2f}")
print(f"contrast against error: rank correlation {spearmanr(contrast, error).statistic:.2f}")

groups = np.array_split(np.argsort(spread), 10)
means = np.array([(spread[group].mean(), error[group].mean()) for group in groups])
too_small = means[:, 1] / means[:, 0]
print(f"error over spread: {too_small.min():.1f} to {too_small.max():.0f} by groups of spread")
figure, axis = plt.subplots(figsize=(4, 3.4), layout="constrained")
axis.loglog(*means.T, "o-")
axis.set(xlabel="spread of the members", ylabel="error of their mean")
axis.set_title(f"rank correlation {rank_correlation:.2f}", fontsize=10)
figure.savefig(FIGURE, dpi=80)
