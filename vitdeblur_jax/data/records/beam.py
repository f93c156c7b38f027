"""Apache Beam as the map of a function over many workers: of this machine, or of many."""

import logging
from collections.abc import Callable, Sequence

from vitdeblur_jax.utils.errors import UserError, nearest, one_line

_DEFAULTS = (
    "--default_sdk_harness_log_level=ERROR",
    "--allow_unsafe_triggers",  # there are none; else DirectRunner would fetch Prism from the net
)


def make_pipeline(flags: Sequence[str]):
    """Return an empty `apache_beam.Pipeline`, so that wrong options show before work begins.

    Args:
        flags: Beam's pipeline options, such as ["--runner=FlinkRunner"]; without a runner it is
            the DirectRunner.

    Raises:
        UserError: Beam is not installed; an unknown, wrong or missing option.
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
    # What Beam does not know may be an option of the job server that such a runner speaks to.
    if unknown and not isinstance(pipeline.runner, PortableRunner):
        name = unknown[0].split("=")[0]
        raise UserError(
            f"--beam: unknown option {name!r}{nearest(name, names)}; all behind --beam is Beam's, "
            "what is not has to stand before it"
        )
    return pipeline


def run_for_each(pipeline, work: Callable[[int], None], count: int) -> None:
    """Call `work(0)` to `work(count - 1)` on the workers of a pipeline, and wait for the last.

    Args:
        pipeline: Of `make_pipeline`; it runs once.
        work: Goes to the workers by pickle. Beam may call it more than once for a number.
        count: How often to call it.

    Raises:
        UserError: The pipeline failed.
    """
    import apache_beam

    try:
        with pipeline:
            pipeline | apache_beam.Create(range(count)) | apache_beam.Map(work)
    except Exception as error:  # of any kind: each runner has its own
        raise UserError(f"Apache Beam failed: {_last_line(error)}") from error


def _import_quietly() -> None:
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it warns that it lacks packages of Google's, always
    try:
        import apache_beam  # noqa: F401
    except ImportError as error:
        message = "--beam needs Apache Beam: pip install 'vitdeblur_jax[beam]'"
        raise UserError(message) from error
    finally:
        logging.disable(disabled)


def _unknown(flags: Sequence[str], pipeline_options) -> tuple[list[str], list[str]]:
    """Return what Beam knows no option for, and the names of those that it knows."""

    def refuse(message: str) -> None:
        raise UserError(f"--beam: {message}")

    parsers = []
    pipeline_options([]).get_all_options(add_extra_args_fn=parsers.append)
    parsers[0].error = refuse
    known, unknown = parsers[0].parse_known_args(list(flags))
    return unknown, [f"--{name}" for name in vars(known)]


def _last_line(error: Exception) -> str:
    """Return what was wrong where the message is a worker's traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
