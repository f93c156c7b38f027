"""Calls a function on many Apache Beam workers, on one machine or several."""

import logging
from collections.abc import Callable, Sequence

from vitdeblur_jax.utils.errors import UserError, nearest, one_line

_DEFAULTS = (
    "--default_sdk_harness_log_level=ERROR",
    "--allow_unsafe_triggers",  # there are none; otherwise DirectRunner would download Prism
)


def make_pipeline(flags: Sequence[str]):
    """Returns an empty `apache_beam.Pipeline`. This checks the options before any work.

    Args:
        flags: Beam's pipeline options, such as ["--runner=FlinkRunner"]. The default runner is
            DirectRunner.

    Raises:
        UserError: Beam is not installed, or an option is unknown, invalid or missing.
    """
    _import_quietly()
    from apache_beam import Pipeline
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.portable_runner import PortableRunner

    unknown, names = _unknown(flags, PipelineOptions)
    try:
        pipeline = Pipeline(options=PipelineOptions([*_DEFAULTS, *flags]))
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"--beam: {one_line(error)}") from error
    # Options that Beam does not define may be for the job server of a portable runner.
    if unknown and not isinstance(pipeline.runner, PortableRunner):
        name = unknown[0].split("=")[0]
        raise UserError(
            f"--beam: unknown option {name!r}{nearest(name, names)}; all options after --beam go "
            "to Beam, so put other options before it"
        )
    return pipeline


def run_for_each(pipeline, work: Callable[[int], None], count: int) -> None:
    """Calls `work(0)` to `work(count - 1)` on the workers of a pipeline and waits for all calls.

    Args:
        pipeline: The result of `make_pipeline`. It can run only once.
        work: A function that can be pickled. Beam may call it more than once with the same number.
        count: Number of calls.

    Raises:
        UserError: The pipeline failed.
    """
    import apache_beam

    try:
        with pipeline:
            pipeline | apache_beam.Create(range(count)) | apache_beam.Map(work)
    except Exception as error:  # each runner raises its own errors
        raise UserError(f"Apache Beam failed: {_last_line(error)}") from error


def _import_quietly() -> None:
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # Beam always warns about missing Google packages
    try:
        import apache_beam  # noqa: F401
    except ImportError as error:
        message = "--beam needs Apache Beam: pip install 'vitdeblur_jax[beam]'"
        raise UserError(message) from error
    finally:
        logging.disable(disabled)


def _unknown(flags: Sequence[str], pipeline_options) -> tuple[list[str], list[str]]:
    """Returns the flags that Beam does not define, and the names of all options that it defines."""

    def refuse(message: str) -> None:
        raise UserError(f"--beam: {message}")

    parsers = []
    pipeline_options([]).get_all_options(add_extra_args_fn=parsers.append)
    parsers[0].error = refuse
    known, unknown = parsers[0].parse_known_args(list(flags))
    return unknown, [f"--{name}" for name in vars(known)]


def _last_line(error: Exception) -> str:
    """Returns the last line of a message, which is the error if it is a worker's traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
