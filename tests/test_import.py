import subprocess
import sys


def run(program: str) -> None:
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_importing_touches_no_device_and_leaves_slow_packages_alone():
    run("""
import sys
import vitdeblur_jax
assert not {"jax", "numpy"} & set(sys.modules)
from vitdeblur_jax import ViTDeblur, deblur, load_pretrained
import vitdeblur_jax.inference.restore_files
from jax._src import xla_bridge
assert not xla_bridge._backends, "a backend was initialised"
late = {
    *("orbax", "tensorstore", "optax", "grain", "tensorflow_datasets"),  # training
    *("torch", "tensorflow", "h5py", "skimage", "scipy", "tifffile"),
    *("vitdeblur_jax.training", "vitdeblur_jax.evaluation", "vitdeblur_jax.metrics"),
    *("vitdeblur_jax.inference.export", "vitdeblur_jax.data.records"),
} & set(sys.modules)
assert not late, late

import jax
import numpy as np
pretrained = load_pretrained()
side = pretrained.model.tiling.size
shape = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
jax.eval_shape(lambda image: pretrained.model.apply(pretrained.variables, image), shape)
late = {"orbax", "optax", "scipy"} & set(sys.modules)
assert not late, late
""")


def test_commands_start_without_jax_to_set_their_handlers_first():
    run("""
import contextlib
import os
import sys
import vitdeblur_jax.__main__
import vitdeblur_jax.cli.with_config
from vitdeblur_jax.cli.main import _COMMANDS, main
assert {"vitdeblur_jax", "deblur", "load_pretrained"} <= {"vitdeblur_jax", *dir(vitdeblur_jax)}
asks = [["--help"], *([command, "--help"] for command in _COMMANDS)]
asks += [["data", verb, "--help"] for verb in ("check", "prepare", "synthesize")]
for arguments in asks:
    with contextlib.suppress(SystemExit):
        main(arguments)
        raise AssertionError(arguments)
early = {"jax", "numpy", "absl", "flax", "PIL"} & set(sys.modules)
assert not early, early
""")
