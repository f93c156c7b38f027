"""Fine-tunes the bundled model for one lens with low-rank updates of its matrices (LoRA).

    python examples/fine_tune.py

The model's parameters are frozen. Two thin matrices for each of its matrices are trained (Hu et
al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022). They have 4 % of the model's
size. In 200 steps the gain for this lens rises from 1.31 to 1.78 dB, and that for 32 crops of other
lenses from 0.86 to 1.06 dB. All unseen crops are from one image.
"""

import functools
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

import vitdeblur_jax as vd
from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.input_pipeline import synthetic_batches
from vitdeblur_jax.data.transforms import unit_range
from vitdeblur_jax.metrics import peak_signal_noise_ratio
from vitdeblur_jax.training.losses import charbonnier_loss
from vitdeblur_jax.training.objective import restoration_objective
from vitdeblur_jax.training.step import fit

IMAGES = sorted((Path(__file__).parent / "images/sharp").glob("*.jpg"))
STEPS, RANK, BORDER = 200, 4, 11
# A lens with a round aperture and a defocus radius of 5 to 6 pixels, and a camera without noise.
LENS = SynthesisSettings(
    **{"usual_radius": (5, 6), "focused_share": 0, "large_share": 0, "smooth_share": 0},
    **{"most_layers": 1, "disk_share": 1, "polygon_share": 0, "noise": 0, "jpeg_share": 0},
)

pretrained = vd.load_pretrained()
model = pretrained.model
leaves = traverse_util.flatten_dict(pretrained.variables["params"], sep="/")
loss = functools.partial(charbonnier_loss, border=BORDER)


def no_change(number, matrix):
    """Returns two thin matrices whose product is zero."""
    rows, columns = matrix.shape
    down = jax.random.normal(jax.random.key(number), (rows, RANK)) / rows**0.5
    return {"down": down, "up": jnp.zeros((RANK, columns))}


def changed(changes):
    """Returns the variables of the model with the changes added."""
    new = {name: leaves[name] + pair["down"] @ pair["up"] for name, pair in changes.items()}
    return {**pretrained.variables, "params": traverse_util.unflatten_dict(leaves | new, "/")}


def objective(variables, blurred, sharp, rng):
    whole = changed(variables["params"])
    return restoration_objective(model, whole, blurred, sharp, rng, loss=loss)


def psnr(images, sharp):
    kept = slice(BORDER, -BORDER)
    return jax.vmap(peak_signal_noise_ratio)(images[:, kept, kept], sharp[:, kept, kept]).mean()


matrices = {name: leaf for name, leaf in leaves.items() if leaf.ndim == 2 and "kernel" in name}
changes = {name: no_change(i, leaf) for i, (name, leaf) in enumerate(matrices.items())}
batches = synthetic_batches(IMAGES[:3], seed=0, batch_size=4, crop=106, settings=LENS)
learned = fit(
    {**pretrained.variables, "params": changes},
    itertools.islice(batches, STEPS),
    objective=objective,
    optimizer=optax.adam(optax.cosine_decay_schedule(1e-3, STEPS)),
)["params"]
restored = jax.jit(model.apply)
print(f"{optax.tree.size(changes) / optax.tree.size(leaves):.0%} as many values as the model has")
for name, settings in {"this lens": LENS, "any lens": SynthesisSettings()}.items():
    unseen = synthetic_batches(IMAGES[3:], seed=1, batch_size=32, crop=106, settings=settings)
    batch = next(unseen)
    blurred, sharp = unit_range(batch["blurred"]), unit_range(batch["sharp"])
    before = psnr(restored(pretrained.variables, blurred), sharp)
    after = psnr(restored(changed(learned), blurred), sharp)
    print(f"{name}: input {psnr(blurred, sharp):.2f} dB, before {before:.2f}, after {after:.2f}")
