"""Functions that run in a process of their own, where one is to be killed or has to wait.

All are forked from one process that has imported the package already, for that takes seconds.
"""

import contextlib
import multiprocessing
import os

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "orbax.checkpoint",
        "optax",
        "vitdeblur_jax.training.checkpointing",
        "vitdeblur_jax.training.interruption",
        "vitdeblur_jax.training.run_folder",
    ]
)


@contextlib.contextmanager
def running(function, *arguments, stderr=os.devnull):
    """Gives the started process; what it writes on standard error goes into a file.

    Args:
      function: of a module's top level.
      arguments: for it.
      stderr: path of the file.
    """
    process = _CONTEXT.Process(target=_run, args=(stderr, function, *arguments))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _run(stderr, function, *arguments):
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT), 2)
    function(*arguments)
