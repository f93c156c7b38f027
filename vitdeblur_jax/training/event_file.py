"""The event files of a run, from which TensorBoard draws its curves and images."""

import tempfile
import time
from pathlib import Path

from vitdeblur_jax.utils.buckets import AnyPath, as_user_error, is_remote, upload
from vitdeblur_jax.utils.errors import UserError

_LARGEST_PART = 2**20  # bytes of a file in a bucket; each event writes all of it


class EventFile:
    """A TensorBoard event file, written in the calling thread.

    In a bucket, where nothing can be appended, each event uploads the whole file. Once the file is
    large, the next one begins; TensorBoard reads them in order.

    tensorboardX's `SummaryWriter` writes in a thread, with a short queue. A full disk ends that
    thread; the next call that adds an event then blocks forever.
    """

    def __init__(self, folder: AnyPath, purge_step: int):
        """Begins a file.

        Args:
          folder: Folder of all event files of the run; created if missing.
          purge_step: TensorBoard ignores this step and later ones in earlier files.

        Raises:
          UserError: tensorboardX is missing, or the file cannot be written.
        """
        try:
            from tensorboardX import RecordWriter, summary
            from tensorboardX.proto.event_pb2 import Event, SessionLog
        except ImportError as error:
            message = "training's log needs tensorboardX: pip install 'vitdeblur_jax[train]'"
            raise UserError(message) from error
        self._event, self._summary, self._writer = Event, summary, RecordWriter
        self._folder = folder
        self._scratch = tempfile.TemporaryDirectory() if is_remote(folder) else None
        self._begin()
        self._write(purge_step, session_log=SessionLog(status=SessionLog.START))

    def _begin(self):
        # TensorBoard reads the files of a folder in order of their names.
        self._path = self._folder / f"events.out.tfevents.{time.time_ns()}"
        with as_user_error(self._path):
            self._folder.mkdir(exist_ok=True)
            self._local = Path(self._scratch.name, self._path.name) if self._scratch else None
            self._file = self._writer(str(self._local or self._path))
        self._write(0, file_version="brain.Event:2")

    def add(self, kind: str, step: int, values: dict, images: dict) -> None:
        """Writes one event.

        Args:
          kind: Prefix of the names, "train" or "validation".
          step: Training step.
          values: Finite values by name.
          images: RGB images by name, uint8.

        Raises:
          UserError: The file cannot be written.
        """
        if self._local and self._local.stat().st_size > _LARGEST_PART:
            self._file.close()
            self._begin()
        parts = [
            *(self._summary.scalar(f"{kind}/{name}", value) for name, value in values.items()),
            *(
                self._summary.image(f"{kind}/{name}", image, dataformats="HWC")
                for name, image in images.items()
            ),
        ]
        self._write(step, summary={"value": [value for part in parts for value in part.value]})

    def close(self) -> None:
        """Closes the file."""
        with as_user_error(self._path):
            self._file.close()
        if self._scratch:
            self._scratch.cleanup()

    def _write(self, step, **content):
        event = self._event(wall_time=time.time(), step=step, **content)
        with as_user_error(self._path):
            self._file.write(event.SerializeToString())
            self._file.flush()
            if self._local:
                upload(self._local, self._path)
