"""A web server on the loopback interface that answers as a test tells it to."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclasses.dataclass
class Answer:
    """What the server says.

    Attributes:
      body: The whole file; a range of it is sent if one is asked for.
      status: The status of an answer with the whole file.
      headers: More headers, or others in place of the usual ones; None leaves one out.
      cuts: For each of the first answers, after how many bytes the connection ends.
      delay: Seconds before the body.
      ranges: Whether ranges are served.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str | None] = dataclasses.field(default_factory=dict)
    cuts: list[int] = dataclasses.field(default_factory=list)
    delay: float = 0.0
    ranges: bool = True


@dataclasses.dataclass
class Request:
    """What the server was asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Server(ThreadingHTTPServer):
    """Answers requests with `answer`, and keeps them in `requests`."""

    daemon_threads = True

    def __init__(self, answer: Callable[[Request], Answer]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.requests = answer, []
        self.stopped = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self):
        length = int(self.headers.get("Content-Length", 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, self.rfile.read(length))
        self.server.requests.append(request)
        self._send(request, self.server.answer(request))

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _send(self, request, answer):
        asked = request.headers.get("range", "")
        begun = int(asked.removeprefix("bytes=").rstrip("-")) if asked and answer.ranges else 0
        whole, body, status = len(answer.body), answer.body[begun:], answer.status
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(body))}
        if begun and not body:
            status = 416
        elif begun:
            status = 206
            headers["Content-Range"] = f"bytes {begun}-{whole - 1}/{whole}"
        self.send_response(status)
        for name, value in {**headers, **answer.headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if request.method == "HEAD":
            return
        self.server.stopped.wait(answer.delay)
        is_cut = request.method == "GET" and bool(answer.cuts)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[: answer.cuts.pop(0)] if is_cut else body)
            self.wfile.flush()
        if is_cut:
            self.close_connection = True

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(answer: Callable[[Request], Answer]) -> Iterator[Server]:
    """Runs a server in a thread during the block."""
    with Server(answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.stopped.set()
            server.shutdown()
            thread.join()


def unused_url() -> str:
    """Returns the address of a port at which nothing listens."""
    with serving(lambda request: Answer()) as server:
        url = server.url
    time.sleep(0)
    return url
