"""Runs of experiment trackers: MLflow and Weights & Biases.

Both are set up as their users are used to, by environment variables and their own settings files.
"""

import contextlib
import os
import re
import uuid
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from flax import traverse_util
from jaxtyping import UInt8

from vitdeblur_jax.utils.errors import UserError, one_line

_PROJECT = "vitdeblur_jax"  # unless the environment names another
_LARGEST_BATCH, _LONGEST_VALUE = 100, 6000  # parameters of a request, characters: MLflow's limits
_NOT_IN_NAMES = re.compile(r"[^\w./ -]", re.ASCII)  # MLflow refuses other characters
_SECONDS_TO_ANSWER, _SECONDS_TO_UPLOAD = 30, 30


@runtime_checkable
class TrackerRun(Protocol):
    """A run of an experiment tracker. Any method but the initializer may fail or block.

    The initializer raises `UserError` if the package is missing or is not set up.
    """

    def open(self, run_id: str | None, name: str, config: dict[str, Any]) -> str:
        """Opens a run with an id, or creates one, and returns its id.

        Args:
          run_id: The id; None creates a run.
          name: Name of a new run.
          config: The training config, the parameters of a new run.
        """
        ...

    def add_values(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        """Adds finite values of a step by name; `seconds` is the time since the epoch."""
        ...

    def add_images(self, step: int, images: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]) -> None:
        """Adds RGB images of a step by name."""
        ...

    def finish(self, is_complete: bool) -> None:
        """Marks the run as finished, or as stopped if it is not complete."""
        ...


class MlflowRun:
    """A run at `MLFLOW_TRACKING_URI`, in the experiment `MLFLOW_EXPERIMENT_NAME`."""

    def __init__(self):
        # We try again ourselves. Seven attempts, MLflow's default, take four minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        try:
            import mlflow
        except ImportError as error:
            raise _not_installed("mlflow") from error
        uri = mlflow.get_tracking_uri()
        try:
            self._client = mlflow.MlflowClient(uri)
        except Exception as error:
            raise UserError(
                f"MLflow cannot log to {uri} ({one_line(error)}); set MLFLOW_TRACKING_URI to your "
                "server, such as http://127.0.0.1:5000, or to a folder, file:FOLDER, with "
                "MLFLOW_ALLOW_FILE_STORE=true"
            ) from error
        self._run_id = None

    def open(self, run_id: str | None, name: str, config: dict[str, Any]) -> str:
        self._run_id = run_id or self._run_id
        if not self._run_id:
            self._run_id = self._client.create_run(self._experiment(), run_name=name).info.run_id
        if not run_id:
            self._log_params(config)  # again, if this failed before
        self._client.update_run(self._run_id, status="RUNNING")
        return self._run_id

    def _log_params(self, config):
        from mlflow.entities import Param

        flat = traverse_util.flatten_dict(config, sep=".")
        params = [Param(key, str(value)[:_LONGEST_VALUE]) for key, value in flat.items()]
        for first in range(0, len(params), _LARGEST_BATCH):
            self._client.log_batch(self._run_id, params=params[first : first + _LARGEST_BATCH])

    def _experiment(self):
        if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name)

    def add_values(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        from mlflow.entities import Metric

        milliseconds = round(1000 * seconds)
        metrics = [
            Metric(_allowed(name), value, milliseconds, step) for name, value in values.items()
        ]
        self._client.log_batch(self._run_id, metrics=metrics)

    def add_images(self, step: int, images: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]) -> None:
        for name, image in images.items():
            self._client.log_image(
                self._run_id, image, key=_allowed(name), step=step, synchronous=True
            )

    def finish(self, is_complete: bool) -> None:
        self._client.set_terminated(self._run_id, "FINISHED" if is_complete else "KILLED")


class WandbRun:
    """A run of Weights & Biases, in the project `WANDB_PROJECT`."""

    def __init__(self):
        try:
            import wandb
        except ImportError as error:
            raise _not_installed("wandb") from error
        # Otherwise a server that is away keeps the process from ending.
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(_SECONDS_TO_UPLOAD))
        self._wandb, self._run = wandb, None
        self._new_id = uuid.uuid4().hex[:8]  # of all tries to open a new run
        self._is_online = wandb.setup().settings.mode == "online"
        try:
            # A server that is away now may be there later.
            with contextlib.suppress(wandb.errors.CommError):
                if self._is_online:
                    wandb.login()  # asks for the key, on a terminal
        except Exception as error:
            raise UserError(
                f"Weights & Biases cannot be used ({one_line(error)}); run `wandb login`, set "
                "WANDB_API_KEY, or set WANDB_MODE=offline to upload later with `wandb sync`"
            ) from error

    def open(self, run_id: str | None, name: str, config: dict[str, Any]) -> str:
        run_id = run_id or self._new_id
        self._run = self._wandb.init(
            id=run_id,
            resume="allow" if self._is_online else None,
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=os.environ.get("WANDB_NAME", name),
            config=config,
            settings=self._wandb.Settings(
                silent=True, console="off", init_timeout=_SECONDS_TO_ANSWER
            ),
        )
        # The axis of all curves. W&B would drop values of a step that it has already closed.
        self._run.define_metric("*", step_metric="step")
        return run_id

    def add_values(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        self._run.log({"step": step, **values})

    def add_images(self, step: int, images: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]) -> None:
        pictures = {name: self._wandb.Image(image) for name, image in images.items()}
        self._run.log({"step": step, **pictures})

    def finish(self, is_complete: bool) -> None:
        self._run.finish(exit_code=0 if is_complete else 1)


RUNS = {"mlflow": MlflowRun, "wandb": WandbRun}


def _allowed(name):
    return _NOT_IN_NAMES.sub("_", name)


def _not_installed(name):
    return UserError(
        f"the tracker {name} is not installed: pip install 'vitdeblur_jax[{name}]', or remove it "
        "from the config's trackers"
    )
