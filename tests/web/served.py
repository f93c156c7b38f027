"""The server of `vitdeblur web` in a thread of the tests, and requests to it."""

import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest

pytest.importorskip("uvicorn", reason="the page needs the extra web: pip install '.[web]'")

from tests.waiting import wait_until
from vitdeblur_jax.cli.process import error_message
from vitdeblur_jax.web.jobs import LIMITS, Job, Jobs, Limits
from vitdeblur_jax.web.serve import listening_socket, make_server

TOKEN = "a-token"


class Answer(NamedTuple):
    """An answer of the server."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def error(self) -> str:
        return json.loads(self.body)["error"]


class Page(NamedTuple):
    """A server, and its images."""

    port: int
    jobs: Jobs

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/{TOKEN}/"

    def ask(self, method: str, path: str, body=None, token: str = TOKEN, **headers) -> Answer:
        """Sends a request as the page does; `headers` change it, and those that are None go."""
        own = {"Host": f"127.0.0.1:{self.port}", "Origin": f"http://127.0.0.1:{self.port}"}
        own |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.putrequest(method, f"/{token}/{path}", skip_host=True)
            for name, value in own.items():
                if value is not None:
                    connection.putheader(name, value)
            if body is not None and "Transfer-Encoding" not in own:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())

    def upload(self, name: str, body: bytes = b"image", **headers) -> Answer:
        return self.ask("POST", f"jobs?name={quote(name)}", body, **headers)

    def add(self, name: str, body: bytes = b"image") -> str:
        """Uploads a file, and returns the id of its job."""
        answer = self.upload(name, body)
        assert answer.status == 201, answer
        return json.loads(answer.body)["id"]

    def listed(self) -> list[dict]:
        return json.loads(self.ask("GET", "state").body)["jobs"]

    def states(self) -> list[str]:
        return [job["state"] for job in self.listed()]

    def finish(self) -> list[dict]:
        """Waits until no image waits or is restored, and returns all."""
        wait_until(lambda: not {"waiting", "running"} & set(self.states()))
        return self.listed()


@contextlib.contextmanager
def served(
    folder: Path,
    restore: Callable[[Job, Callable], None],
    limits: Limits = LIMITS,
    host: str = "127.0.0.1",
) -> Iterator[Page]:
    """Serves the page with that function to restore."""
    jobs = Jobs(folder, restore, error_message, limits)
    with listening_socket(host, 0) as listening:
        server = make_server(TOKEN, jobs, ["bundled model"], host)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield Page(listening.getsockname()[1], jobs)
        finally:
            server.should_exit = server.force_exit = True
            thread.join()
