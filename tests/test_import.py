import subprocess
import sys


def test_importing_touches_no_device_and_leaves_slow_packages_alone():
    program = """
import vitdeblur_jax
from jax._src import xla_bridge
assert not xla_bridge._backends, "a backend was initialised"
import sys
late = {"orbax.checkpoint", "torch", "tensorflow", "skimage", "scipy"} & set(sys.modules)
assert not late, late
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
