import subprocess
import sys


def run(program: str) -> None:
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_importing_touches_no_device_and_leaves_slow_packages_alone():
    run("""
import vitdeblur_jax
from vitdeblur_jax import deblur, load_pretrained
from jax._src import xla_bridge
assert not xla_bridge._backends, "a backend was initialised"
import sys
late = {"orbax.checkpoint", "torch", "tensorflow", "skimage", "scipy"} & set(sys.modules)
assert not late, late
""")


def test_commands_start_without_jax_to_set_their_handlers_first():
    run("""
import sys
import vitdeblur_jax.__main__
import vitdeblur_jax.cli.main
import vitdeblur_jax.cli.with_config
assert {"vitdeblur_jax", "deblur", "load_pretrained"} <= {"vitdeblur_jax", *dir(vitdeblur_jax)}
early = {"jax", "numpy", "absl", "flax"} & set(sys.modules)
assert not early, early
""")
