"""Runs the page's server."""

import contextlib
import functools
import secrets
import socket
from collections.abc import Callable, Sequence

import flax.linen as nn
import uvicorn

from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.files import private_folder
from vitdeblur_jax.utils.output import show
from vitdeblur_jax.web.app import Files, make_app
from vitdeblur_jax.web.guard import guard_of
from vitdeblur_jax.web.images import (
    AFTER,
    BEFORE,
    THUMBNAIL,
    Models,
    change,
    file_name,
    restore_job,
    result,
)
from vitdeblur_jax.web.jobs import Jobs

FILES = Files(file_name, (BEFORE, AFTER, THUMBNAIL), {"result": result, "change": change})
_CONNECTIONS = 64


class Server(uvicorn.Server):
    """A server that leaves the signals to `vitdeblur_jax.utils.signals`."""

    @contextlib.contextmanager
    def capture_signals(self):
        """Does nothing."""
        yield


def serve(
    checkpoints: Sequence[str],
    network: nn.Module | None,
    host: str,
    port: int,
    explain: Callable[[Exception], str | None],
) -> None:
    """Serves the page until a signal ends the process; prints its address.

    Args:
      checkpoints: Paths, as `load_pretrained` takes them; the bundled model is offered too.
      network: The network of these checkpoints, or None.
      host: The address or name to listen on.
      port: The port; 0 for any that is free.
      explain: Returns the line for an error of the user's; None for a bug.

    Raises:
      UserError: The first checkpoint cannot be loaded, or the address cannot be used.
    """
    with listening_socket(host, port) as listening, private_folder("vitdeblur_web") as folder:
        models = Models(checkpoints, network)
        jobs = Jobs(folder, functools.partial(restore_job, load=models.get), explain)
        token = secrets.token_urlsafe(24)
        server = make_server(token, jobs, models.names, host)
        show(f"Open {address(host, listening)}/{token}/ in a browser. Ctrl-C ends the server.")
        server.run(sockets=[listening])


def make_server(token: str, jobs: Jobs, models: list[str], host: str) -> Server:
    """Returns a server for the page; call its `run` with a listening socket.

    Args:
      token: The secret part of all addresses.
      jobs: The images.
      models: The names of the models.
      host: The address or name that the server listens on.
    """
    app = guard_of(make_app(token, jobs, models, FILES), host)
    return Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
        )
    )


def listening_socket(host: str, port: int) -> socket.socket:
    """Returns a socket that listens on an address or name.

    Raises:
      UserError: The address cannot be used, for example because the port is in use.
    """
    try:
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = "not a host name" if isinstance(error, UnicodeError) else one_line(error)
        raise UserError(
            f"cannot listen on {host}, port {port} ({reason}); choose another --host or --port"
        ) from error


def address(host: str, listening: socket.socket) -> str:
    """Returns the beginning of the page's address, with the port that is really used."""
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{listening.getsockname()[1]}"
