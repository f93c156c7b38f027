"""Checkpoints of a training run: one Orbax folder per saved step, written in the background.

| item | content |
|---|---|
| variables | the model's variables used in validation: averaged ones if the run keeps an average |
| config | the model's config, and checksums; `load_pretrained` reads it with "variables" |
| training | step, skipped, optimizer state; the parameters too if "variables" holds averages |
| resume_state | everything else needed to resume, as JSON |
| metrics | the validation PSNR, if it was measured |
"""

import contextlib
import json
import math
from collections.abc import Iterator

from vitdeblur_jax.checkpoints.checksums import checksum
from vitdeblur_jax.checkpoints.orbax_errors import orbax_reason, quiet_orbax
from vitdeblur_jax.checkpoints.orbax_folders import (
    check_space,
    damaged_items,
    flat_shapes,
    psnr_of,
    read_psnr,
    step_folders,
    unfinished_folders,
    write_psnr,
)
from vitdeblur_jax.checkpoints.orbax_s3 import prepare_for
from vitdeblur_jax.distributed.processes import gather, is_first, tells_of_a_loss
from vitdeblur_jax.training.state import TrainState
from vitdeblur_jax.utils.buckets import AnyPath, absolute, remove_tree
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.output import tell
from vitdeblur_jax.utils.shapes import few_of, shape_differences

_NOT_WRITTEN = (
    "step {} cannot be written; fix this, then run the same command to resume from the checkpoint "
    "before it"
)


class TrainingCheckpoints:
    """The checkpoints in a folder: the last ones, and the best by validation PSNR.

    Use it in a `with` statement. Leaving the statement waits for the save in progress, and raises
    if it failed. Incomplete checkpoints of an earlier process are removed.
    """

    def __init__(self, folder: AnyPath, keep: int):
        """Opens the folder, or creates it.

        Args:
          folder: Folder of all checkpoints of the run.
          keep: Number of the last checkpoints to keep, besides the best one.

        Raises:
          UserError: The folder cannot be used, or a checkpoint in it is damaged.
        """
        self._folder = absolute(folder)
        for step_folder in step_folders(self._folder).values():
            read_psnr(step_folder)  # Orbax's error does not name the damaged one
        self._saving = None
        with contextlib.ExitStack() as stack:
            stack.enter_context(quiet_orbax())
            with self._as_user_error("the folder cannot be used"):
                self._folder.mkdir(parents=True, exist_ok=True)
                if is_first():
                    _remove_unfinished(self._folder)
                self._manager = _manager(self._folder, keep)
            stack.callback(self._manager.close)
            stack.callback(self.wait)
            self._open = stack.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._open.__exit__(*error)

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def save(
        self,
        state: TrainState,
        network_config: dict,
        resume_state: dict,
        psnr: float | None = None,
    ) -> None:
        """Starts a save in the background, after the previous save is complete.

        When it returns, `state` may be donated to the next step. Older checkpoints are deleted only
        when the new one is complete. A step that is already saved is not saved again.

        Args:
          state: Training state, on any devices.
          network_config: What the checkpoint says of its network, see `saved_config`.
          resume_state: A value that JSON can hold. Floats are restored exactly, tuples as lists.
          psnr: Validation PSNR of `state.ema_variables` in dB; None if not measured.

        Raises:
          UserError: The disk has too little space for this checkpoint, or the previous one could
            not be written.
        """
        import orbax.checkpoint as ocp

        self.wait()
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        variables, training = _parts(state)
        check_space((variables, training), self._folder)
        checksums = {"variables": checksum(variables), "training": checksum(training)}
        save_tree, save_json = ocp.args.StandardSave, ocp.args.JsonSave
        items = ocp.args.Composite(
            variables=save_tree(variables),
            training=save_tree(training),
            config=save_json({**network_config, "checksums": checksums}),
            # A copy: Orbax encodes it in the background, when the caller may have changed it.
            resume_state=save_json(json.loads(json.dumps(resume_state))),
        )
        self._saving = step
        with self._as_user_error(_NOT_WRITTEN.format(step)):
            is_measured = psnr is not None and not math.isnan(psnr)
            metrics = {"psnr": float(psnr)} if is_measured else None
            self._manager.save(step, args=items, metrics=metrics, force=True)

    def wait(self) -> None:
        """Waits for the save in progress.

        Raises:
          UserError: The checkpoint could not be written.
        """
        with self._as_user_error(_NOT_WRITTEN.format(self._saving)):
            self._manager.wait_until_finished()

    def has_psnr(self, step: int) -> bool:
        """Returns whether a saved step has the PSNR of a validation, as process 0 sees it."""
        return gather(read_psnr(self._folder / str(step)) > -math.inf)[0]

    def add_psnr(self, step: int, psnr: float) -> None:
        """Adds the PSNR of a validation made after the step was saved.

        Raises:
          UserError: The PSNR cannot be written.
        """
        self.wait()
        with self._as_user_error(f"the PSNR of step {step} cannot be written"):
            if is_first():
                write_psnr(self._folder / str(step), psnr)
            gather(None)  # the other processes read it only when it is written
            self._manager.reload()

    def restore(self, step: int, abstract_state: TrainState) -> tuple[TrainState, dict]:
        """Returns the state, bit for bit, and the `resume_state` saved at a step.

        Args:
          step: A saved step, such as `latest_step` returns.
          abstract_state: State whose leaves are `jax.ShapeDtypeStruct` with the wanted sharding.

        Raises:
          UserError: The checkpoint is damaged, or belongs to another model or optimizer.
        """
        import orbax.checkpoint as ocp

        self.wait()
        variables, training = _parts(abstract_state)
        path = self._folder / str(step)
        before = max((other for other in self._manager.all_steps() if other < step), default=None)
        otherwise = "starts anew" if before is None else f"resumes from step {before}"
        failure = (
            f"step {step} cannot be read; if it is damaged, delete {path}, and the run {otherwise}"
        )
        restore_tree = ocp.args.StandardRestore
        items = ocp.args.Composite(
            variables=restore_tree(variables),
            training=restore_tree(training),
            resume_state=ocp.args.JsonRestore(),
            config=ocp.args.JsonRestore(),
        )
        with self._as_user_error(failure):
            stored = self._manager.metadata(step).item_metadata
            trees = {name: _tree(stored[name]) for name in ("variables", "training")}
            wanted = {"variables": variables, "training": training}
            wrong = shape_differences(flat_shapes(trees), flat_shapes(wanted))
            if wrong:
                raise UserError(
                    f"{path} belongs to another model or optimizer ({len(wrong)} entries): "
                    f"{few_of(wrong, '; ')}; choose another --workdir"
                )
            restored = self._manager.restore(step, args=items)
            read = {"variables": restored.variables, "training": restored.training}
            damaged = damaged_items(read, restored.config.get("checksums", {}))
            if damaged:
                raise ValueError(f"the checksum of its {' and '.join(damaged)} data differs")
        return _joined(abstract_state, restored.variables, restored.training), restored.resume_state

    @contextlib.contextmanager
    def _as_user_error(self, what: str) -> Iterator[None]:
        """Turns the errors of Orbax, its threads and TensorStore into a `UserError`.

        Errors because another process died pass unchanged: the checkpoints are not at fault.
        """
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if tells_of_a_loss(error):
                raise
            reason = orbax_reason(error)
            raise UserError(f"checkpoints in {self._folder}: {what} ({reason})") from error


def _manager(folder, keep):
    import orbax.checkpoint as ocp

    policies = ocp.checkpoint_managers
    best = policies.BestN(get_metric_fn=psnr_of, n=1, keep_checkpoints_without_metrics=False)
    trees, texts = ocp.StandardCheckpointHandler, ocp.JsonCheckpointHandler
    return ocp.CheckpointManager(
        folder,
        item_handlers={
            "variables": trees(),
            "training": trees(),
            "config": texts(),
            "resume_state": texts(),
        },
        options=ocp.CheckpointManagerOptions(
            best_fn=psnr_of,  # without it, Orbax writes no metrics
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            **prepare_for(folder),
        ),
    )


def _remove_unfinished(folder):
    """Removes the files of interrupted saves.

    Orbax removes them in a thread that only its next save waits for. That thread may still be
    running when this manager is closed and another one is open.
    """
    latest = max(step_folders(folder), default=None)
    then = "starts anew" if latest is None else f"resumes from step {latest}"
    for path in unfinished_folders(folder):
        remove_tree(path)
        step = path.name.partition(".")[0]
        tell(f"note: the checkpoint of step {step} was not complete and is removed; the run {then}")


def _tree(metadata):
    if metadata is None:
        raise ValueError("its _METADATA is missing")
    return metadata.tree


def _parts(state):
    """Returns the two trees in which a state, concrete or abstract, is saved."""
    training = {
        "step": state.step,
        "skipped": state.skipped,
        "opt_state": state.opt_state,
    }
    if state.ema_params is not None:
        training["params"] = state.params
    return state.ema_variables, training


def _joined(abstract_state, variables, training):
    """Returns the state from its two trees; the inverse of `_parts`."""
    with_ema = abstract_state.ema_params is not None
    return abstract_state.replace(
        step=training["step"],
        skipped=training["skipped"],
        params=training["params"] if with_ema else variables["params"],
        model_state={name: value for name, value in variables.items() if name != "params"},
        opt_state=training["opt_state"],
        ema_params=variables["params"] if with_ema else None,
    )
