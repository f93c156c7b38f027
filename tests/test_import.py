import subprocess
import sys


def test_importing_is_quick_and_touches_no_device():
    program = """
import time
import jax
started = time.perf_counter()
import vitdeblur_jax
print(time.perf_counter() - started)
from jax._src import xla_bridge
assert not xla_bridge._backends, "a backend was initialised"
import sys
late = {"orbax.checkpoint", "torch", "tensorflow", "skimage", "scipy"} & set(sys.modules)
assert not late, late
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
