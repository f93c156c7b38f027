"""The training loop, for one device or many."""

import contextlib
import math
import os
import shlex
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from vitdeblur_jax.checkpoints.addresses import without_queries
from vitdeblur_jax.checkpoints.orbax_folders import step_folders
from vitdeblur_jax.checkpoints.pretrained import Pretrained, saved_config
from vitdeblur_jax.data.image_io import DecodedImage, write_image
from vitdeblur_jax.distributed.processes import gather, is_first, is_multiprocess, together
from vitdeblur_jax.distributed.sharding import (
    batch_sharded,
    global_array,
    make_mesh,
    replicated,
    whole_on_local_devices,
)
from vitdeblur_jax.inference.chosen_tiling import tell_of_tiling
from vitdeblur_jax.models.network import views_of
from vitdeblur_jax.models.networks import config_of
from vitdeblur_jax.training.checkpointing import TrainingCheckpoints
from vitdeblur_jax.training.configuration import check_config, defaults_of, free_keys
from vitdeblur_jax.training.data import TrainingData
from vitdeblur_jax.training.initialization import given_variables
from vitdeblur_jax.training.log import SilentLog, TrainingLog
from vitdeblur_jax.training.messages import what_was_done, what_was_not_finite
from vitdeblur_jax.training.metrics_window import MetricsWindow, NotFiniteError
from vitdeblur_jax.training.objective import Objective
from vitdeblur_jax.training.optimizer import decay_factor
from vitdeblur_jax.training.preemption import AgreedPreemption, Preempted, Preemption
from vitdeblur_jax.training.preparation import Run, describe, first_state, prepare
from vitdeblur_jax.training.profiling import Profile
from vitdeblur_jax.training.resume_checks import (
    check_are_same_checkpoints,
    check_data,
    check_is_same_data,
    check_network,
    check_steps,
)
from vitdeblur_jax.training.run_folder import check_is_shared, run_folder, write_config
from vitdeblur_jax.training.time_limit import TimeLimit
from vitdeblur_jax.training.trackers import Tracker, connect
from vitdeblur_jax.training.validation import validate_sets
from vitdeblur_jax.utils.buckets import reachable
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.files import write_text
from vitdeblur_jax.utils.output import tell


def train(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    objective: Callable[..., Objective] | None = None,
    network: nn.Module | None = None,
) -> int:
    """Trains the run of `config` in `workdir`, or resumes it; see docs/train.md.

    Args:
      config: A config based on `default_config`.
      workdir: Folder for the results, on disk or in a bucket: gs://BUCKET/RUN, s3://BUCKET/RUN.
      objective: Function of network, variables, blurred and sharp images and a key for dropout. It
        replaces the losses of `config.loss`. The weights there then only decide which heads are
        trained, and `config.loss_schedule` must be empty. A resumed run is not checked for the same
        objective.
      network: The network to train, if the config names none; see `vitdeblur_jax.models.network`.

    Returns:
      The exit status: 0 when the run is complete, 128 + n if signal n preempted it.

    Raises:
      UserError: The config, the data or the folder is invalid (raised before anything is
        compiled), or the loss or gradient of a step is not finite.
    """
    with contextlib.ExitStack() as stack:
        with together():
            network = check_config(config, network)
            time_limit = TimeLimit(config.time_limit_s)
            workdir = reachable(workdir)
            tracker_runs = connect(config.trackers) if is_first() else {}
            mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
            run = prepare(config, network, mesh, objective)
            data = TrainingData(config, views_of(network))
            newest = max(step_folders(workdir / "checkpoints"), default=None)
        # Orbax has barriers of its own, so no process may enter it unless all do.
        check_are_same_checkpoints(workdir, gather(newest))
        check_is_same_data(gather(data.fingerprint), "training")
        check_is_same_data(gather(data.validation_fingerprint), "validation")
        with together():
            given = given_variables(config, network) if newest is None else None
        with together():
            folder = stack.enter_context(_shared_run_folder(workdir, config, network))
        preemption = stack.enter_context(AgreedPreemption() if is_multiprocess() else Preemption())
        with together():
            check_is_shared(folder)
        with together():
            checkpoints = stack.enter_context(
                TrainingCheckpoints(folder / "checkpoints", config.keep_checkpoints)
            )
        with together():
            check_network(folder, network)
            state, resume_state = first_state(config, run, checkpoints, given)
            del given  # frees memory: it is as large as the network
            step = int(state.step)
            check_steps(folder, step, config)
            check_data(folder, resume_state, data.fingerprint, config)
            is_new = not resume_state
            if is_first() and not is_new:
                write_config(folder, config)
            log = stack.enter_context(_begin_log(folder, step, is_new, config, run, tracker_runs))
        loop = _Loop(
            config, run, data, checkpoints, log, preemption, time_limit, state, resume_state
        )
        if resume_state:
            log.say(what_was_done(folder, config, loop.step, time_limit))
        try:
            return loop.run()
        except NotFiniteError as error:
            raise UserError(what_was_not_finite(error, data, checkpoints)) from error


def _shared_run_folder(workdir, config, network):
    if is_first():
        return run_folder(workdir, config, free_keys(config), defaults_of(config, network))
    return contextlib.nullcontext(workdir)


def _begin_log(folder, step, is_new, config, run, tracker_runs):
    if not is_first():
        return SilentLog(folder)
    table = describe(run)
    write_text(folder / "parameters.txt", table)
    tell(table.splitlines()[-1])
    for stride in {None, config.validation.stride or None}:
        tell_of_tiling(run.network, stride)
    trackers = [
        Tracker(name, tracker_run, folder, is_new, without_queries(config.to_dict()))
        for name, tracker_run in tracker_runs.items()
    ]
    total_steps = None if config.time_limit_s else config.num_steps
    return TrainingLog(folder, step, total_steps, trackers, is_new=is_new)


class _Loop:
    """Runs the remaining steps; holds the state of the loop."""

    def __init__(
        self, config, run: Run, data, checkpoints, log, preemption, time_limit, state, resume_state
    ):
        self.config, self.fixed, self.data = config, run, data
        self.checkpoints, self.log, self.preemption = checkpoints, log, preemption
        self.time_limit = time_limit
        self.state, self.step = state, int(state.step)
        self.saved_step = self.step if resume_state else None
        self.window = MetricsWindow(resume_state.get("window"), config.max_nonfinite_steps)
        if time_limit and resume_state:
            time_limit.resume(resume_state["time"])
        self.logged_images = []  # paths, of the last validation
        self.profile = Profile(log.folder / "profile", config.profile if is_first() else ())

    def run(self) -> int:
        """Returns the exit status."""
        try:
            if self.validation_is_due():
                self.finish_validation()
            if self.time_limit and not (self.step or self.time_limit.knows_closing()):
                with self.log.not_training():
                    self.validate_and_save()  # measures its time
            while not self.is_complete():
                self.run_stage()
        except Preempted as preempted:
            self.save()
            self.checkpoints.wait()
            self.log.say(f"saved at step {self.step}; run the same command to resume")
            return preempted.status
        finally:
            self.profile.close()
        self.checkpoints.wait()  # before reporting success
        self.log.complete()
        self.report_results()
        return 0

    def run_stage(self):
        """Trains to the end of the current stage."""
        stage, sharding = self.data.stage(self.step), batch_sharded(self.fixed.mesh)
        self.log.say(f"compiling the training step for {stage.shape}")
        level = "allow"  # to compile, JAX may read constants of the network from the device
        with contextlib.closing(self.data.batches(self.step, stage, sharding)) as batches:
            while self.step < self.data.end_of(stage) and not self.is_complete():
                self.tick()
                started = time.monotonic()
                batch = self.next_batch(batches)
                waited = time.monotonic() - started
                self.profile.before(self.step)
                scale = self.lr_scale()
                with jax.transfer_guard(level):
                    self.state, metrics = self.fixed.train_step(self.state, batch, **scale)
                level = "disallow"
                self.profile.after(self.step, metrics)
                self.step += 1
                self.window.add(self.step, metrics)
                self.log.advance(self.step, images=stage.batch_size, seconds_waiting=waited)
                self.report()

    def tick(self):
        """Reads the clock; near the end of the time after all steps, as they start in advance."""
        if self.time_limit.progress > 0.9:
            self.window.drain()
        self.time_limit.tick()

    def lr_scale(self) -> dict:
        """Returns the step's argument that decays the learning rate, if it needs one."""
        if not self.time_limit:
            return {}
        return {"lr_scale": global_array(np.float32(self.decay()), replicated(self.fixed.mesh))}

    def decay(self) -> float:
        progress = self.time_limit.progress
        return decay_factor(self.config.optimizer, progress) if self.time_limit else 1.0

    def next_batch(self, batches) -> dict:
        try:
            return next(batches)
        except Exception:
            # The signal may also have ended a worker that was starting.
            self.preemption.check_alone()
            raise

    def report(self):
        """Logs, validates and saves after a step, if due."""
        if self.is_due(self.config.log_every):
            means, skipped = self.window.means(), self.window.state()["skips"]
            # The schedule counts only updates, not skipped steps.
            rate = float(self.fixed.schedule(self.step - 1 - skipped)) * self.decay()
            elapsed = {"elapsed_s": self.time_limit.elapsed_s} if self.time_limit else {}
            figures = {**means, "learning_rate": rate, "skipped": skipped, **elapsed}
            self.log.train(self.step, figures)
            self.window.reset()
        with self.log.not_training():
            if self.validation_is_due():
                self.validate_and_save()
            elif self.may_close() and self.is_due(self.config.save_every):
                self.save()
        if not self.is_complete():
            self.preemption.check()

    def is_complete(self) -> bool:
        return self.step >= self.config.num_steps or self.time_limit.progress >= 1

    def is_due(self, every: int) -> bool:
        return bool(every and self.step and (self.is_complete() or self.step % every == 0))

    def may_close(self) -> bool:
        """Returns whether there is time to validate and save."""
        return self.is_complete() or self.time_limit.allows_closing()

    def validation_is_due(self) -> bool:
        return self.may_close() and self.is_due(self.config.validation.every)

    def finish_validation(self):
        """Validates the step of the checkpoint, or adds its PSNR, if the run ended before."""
        psnr = gather(self.logged_psnr())[0]
        if psnr is None:
            psnr = self.validate()
        elif self.checkpoints.has_psnr(self.step):
            return
        if not gather(math.isnan(psnr))[0]:
            self.checkpoints.add_psnr(self.step, psnr)

    def logged_psnr(self) -> float | None:
        """Returns the PSNR of the first validation set, if the log has it for this step.

        NaN stands for any value that is not finite, which the log holds as null.
        """
        logged = self.log.last("validation")
        name = next(iter(self.data.validation))
        key = f"{name}/psnr" if name else "psnr"
        if logged is None or logged["step"] != self.step or key not in logged:
            return None
        return math.nan if logged[key] is None else logged[key]

    def validate_and_save(self):
        with self.time_limit.closing():
            self.save(self.validate() if self.config.validation.every else None)
            if self.time_limit:
                self.checkpoints.wait()

    def validate(self) -> float:
        """Validates on whole images and logs the metrics; returns the PSNR of the first set."""
        variables = whole_on_local_devices(self.fixed.mesh, self.state.ema_variables)
        figures, images, psnr = validate_sets(
            Pretrained(self.fixed.network, variables, "training"),
            self.data.validation,
            self.config.validation,
            on_tiles=lambda done: self.preemption.check_alone(),
        )
        if is_first():
            self.write_validation(figures, images)
        return psnr

    def write_validation(self, figures: dict, images: dict):
        self.log.validation(self.step, figures, images)
        folder = self.log.folder / "validation_images"
        folder.mkdir(exist_ok=True)
        self.logged_images = [folder / f"{name.replace('/', '_')}.png" for name in images]
        for path, image in zip(self.logged_images, images.values(), strict=True):
            write_image(DecodedImage(image), path)

    def report_results(self):
        """Prints the results of a complete run, and `config.afterwards`."""
        folder = self.log.folder
        if self.logged_images:
            self.log.say(f"{self.logged_images[0]}: input, output, target and error side by side")
        is_own = config_of(self.fixed.network) is None
        name = self.config.get("network")
        if name or not is_own:
            option = f" --network {name}" if is_own else ""
            checkpoint = shlex.quote(str(folder))
            self.log.say(f"to restore an image: vitdeblur IMAGE --checkpoint {checkpoint}{option}")
        for line in self.config.afterwards:
            self.log.say(line)

    def save(self, psnr: float | None = None):
        """Saves a checkpoint, unless this step is already saved."""
        if self.saved_step != self.step:
            resume_state = {
                **{"next_step": self.step, "window": self.window.state()},
                "data": self.data.fingerprint,
            }
            if self.time_limit:
                resume_state["time"] = self.time_limit.state()
            description = saved_config(self.fixed.network)
            self.checkpoints.save(self.state, description, resume_state, psnr)
            self.saved_step = self.step
