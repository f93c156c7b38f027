"""Orbax checkpoints on S3.

Orbax passes gs:// to TensorStore's driver of Google Cloud Storage and everything else to its driver
of files. TensorStore has a driver of S3 too, so one function of Orbax is replaced by one that
selects it.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

from vitdeblur_jax.utils.buckets import scheme_of
from vitdeblur_jax.utils.errors import UserError

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")


def prepare_for(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Prepares Orbax for the place of a checkpoint.

    Returns:
      Options of `CheckpointManagerOptions`. S3 cannot rename, so the last object of a checkpoint,
      `commit_success.txt`, marks it as complete, as Orbax does by itself on Google Cloud Storage.

    Raises:
      UserError: The installed version of Orbax has no such function.
    """
    if scheme_of(path) != "s3":
        return {}
    import orbax.checkpoint as ocp

    _select_s3_driver()
    return {"temporary_path_class": ocp.path.atomicity.CommitFileTemporaryPath}


@functools.cache
def _select_s3_driver() -> None:
    import orbax.checkpoint as ocp

    try:
        from orbax.checkpoint._src.serialization import tensorstore_utils

        tensorstore_utils.build_kvstore_tspec = _for_s3_too(tensorstore_utils.build_kvstore_tspec)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"checkpoints on s3:// are not supported with orbax-checkpoint {ocp.__version__}: pip "
            "install 'vitdeblur_jax[s3]'"
        ) from error


def _for_s3_too(build_spec: Callable[..., dict]) -> Callable[..., dict]:
    """Returns Orbax's function of a folder, extended to folders on S3."""

    @functools.wraps(build_spec)
    def build(directory, *arguments, **options):
        folder = os.fspath(directory)
        if not folder.startswith("s3:/"):
            return build_spec(directory, *arguments, **options)
        there = folder.removeprefix("s3:").lstrip("/")  # Orbax may have dropped one slash
        return _on_s3(build_spec(f"gs://{there}", *arguments, **options))

    return build


def _on_s3(spec: Any) -> Any:
    """Returns a TensorStore spec with the driver of S3 in place of that of Google."""
    if not isinstance(spec, dict):
        return spec
    if spec.get("driver") in ("gcs", "gcs_grpc"):
        return {**spec, "driver": "s3", **_service()}
    return {key: _on_s3(value) for key, value in spec.items()}


def _service() -> dict[str, Any]:
    """Returns what TensorStore does not find in the environment, as boto does."""
    options = {}
    if os.environ.get("AWS_ACCESS_KEY_ID"):  # else it looks for files and logs that there are none
        options["aws_credentials"] = {"type": "environment"}
    endpoint = _first_set(_ENDPOINTS)
    if endpoint:
        options |= {"endpoint": endpoint, "aws_region": _first_set(_REGIONS) or "us-east-1"}
    return options


def _first_set(names):
    return next((os.environ[name] for name in names if os.environ.get(name)), None)
