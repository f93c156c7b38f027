"""Processes that are forked from one that has imported the package already: imports take seconds.

They inherit the environment of the tests. XLA_FLAGS and JAX's variables can be changed for one of
them, other variables only if no library reads them while it is imported. Tests of imports
themselves start an interpreter instead.
"""

import contextlib
import gc
import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import jax

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "absl.app",
        "grain",
        "ml_collections.config_flags",
        "optax",
        "orbax.checkpoint",
        "vitdeblur_jax.cli.main",
        "vitdeblur_jax.data.records.preparation",
        "vitdeblur_jax.evaluation",
        "vitdeblur_jax.inference.restore_files",
        "vitdeblur_jax.training.loop",
    ]
)
_TEXT = {"encoding": "utf-8", "errors": "replace"}


class Ended(NamedTuple):
    """The result of a finished process.

    Attributes:
      returncode: Exit status, or minus the number of the signal that ended the process.
      stdout: Text on standard output.
      stderr: Text on standard error.
    """

    returncode: int
    stdout: str
    stderr: str


def run_program(
    arguments: Sequence[str | os.PathLike], folder: Path, *, timeout: float = 300, **environment
) -> Ended:
    """Runs a program to its end, as `subprocess.run` would run `python ARGUMENTS`.

    Args:
      arguments: A file, `-m` and a module, or `-c` and source code; then the program's arguments.
      folder: Working directory of the program.
      timeout: Seconds after which the program is killed; its return code is then -9.
      environment: Environment variables to change.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out, err = (os.path.join(scratch, name) for name in ("out", "err"))
        process = start_program(arguments, folder, out, err, **environment)
        try:
            process.join(timeout)
        finally:
            process.kill()
            process.join()
        return Ended(process.exitcode, Path(out).read_text(**_TEXT), Path(err).read_text(**_TEXT))


def start_program(
    arguments: Sequence[str | os.PathLike],
    folder: Path,
    stdout: str | os.PathLike,
    stderr: str | os.PathLike,
    **environment: str,
) -> BaseProcess:
    """Starts a program as the leader of a process group; see `run_program`.

    Args:
      arguments: A file, `-m` and a module, or `-c` and source code; then the program's arguments.
      folder: Working directory of the program.
      stdout: Path of a file for standard output.
      stderr: Path of a file for standard error; it may be the same.
      environment: Environment variables to change.
    """
    words = [os.fspath(word) for word in arguments]
    process = _CONTEXT.Process(
        target=_run_program,
        args=(words, os.fspath(folder), os.fspath(stdout), os.fspath(stderr), environment),
    )
    process.start()
    return process


@contextlib.contextmanager
def running(function, *arguments, stderr=os.devnull) -> Iterator[BaseProcess]:
    """Yields a started process that runs a function, and kills it when the block ends.

    Args:
      function: A function at the top level of a module.
      arguments: The function's arguments.
      stderr: Path of a file for standard error.
    """
    process = _CONTEXT.Process(target=_run_function, args=(stderr, function, *arguments))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _run_function(stderr, function, *arguments):
    gc.freeze()  # so that garbage collection copies no page of the server
    _redirect(2, stderr)
    function(*arguments)


def _run_program(arguments, folder, stdout, stderr, environment):
    gc.freeze()  # so that garbage collection copies no page of the server
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    for name in environment:
        if name.startswith("JAX_"):  # JAX has read its variables already
            value = environment[name]
            jax.config.update(name.lower(), {"0": False, "1": True}.get(value, value))
    _redirect(1, stdout)
    _redirect(2, stderr)
    kind, rest = arguments[0], arguments[1:]
    if kind == "-m":
        sys.argv, sys.path[0:0] = rest, [folder]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv, sys.path[0:0] = ["-c", *rest[1:]], [folder]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0:0] = arguments, [os.path.dirname(os.path.abspath(kind))]
        runpy.run_path(kind, run_name="__main__")


def _redirect(descriptor, path):
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(opened, descriptor)
    os.close(opened)
