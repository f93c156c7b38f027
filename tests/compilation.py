"""How the tests compile: fast rather than optimized, and each program once.

The settings are environment variables, so that child processes compile the same way. Tests of
golden numbers and of compiled text use `optimized_compilation`.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import jaxlib

from vitdeblur_jax.cli.compilation_cache import cpu_key
from vitdeblur_jax.utils.caches import own_cache

CACHE_LIMIT = 2 * 10**9  # bytes


def drop_large_cache() -> None:
    """Deletes the cache if it has outgrown its limit; no other process may use it yet."""
    folder = cache_folder().parent
    if sum(path.stat().st_size for path in folder.rglob("*-cache")) > CACHE_LIMIT:
        shutil.rmtree(folder, ignore_errors=True)


def compile_fast_and_cache() -> None:
    """Sets the environment of this process and its children, and this process's JAX."""
    import jax  # late: the process that hands out the tests needs none

    settings = {
        "jax_compilation_cache_dir": str(cache_folder()),
        "jax_disable_most_optimizations": True,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


def cache_folder() -> Path:
    """Returns the cache's folder: the user's, one for each jaxlib and kind of CPU."""
    return own_cache("tests") / f"jaxlib-{jaxlib.__version__}-{cpu_key()}"


@contextlib.contextmanager
def optimized_compilation() -> Iterator[None]:
    """Compiles as users do, in this process and in those that start meanwhile."""
    _set_fast(False)
    yield
    _set_fast(True)


def _set_fast(fast: bool) -> None:
    import jax

    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", fast)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(fast)
