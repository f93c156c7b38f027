"""Refuses requests of other sites, and sends headers that let the page load nothing from others.

A page of another site can make the browser send requests to this server. Its origin then differs
from the address of the server. It can also point its own host name at this machine (DNS rebinding).
Its host is then a name, which is neither this machine's nor an IP address.
"""

import ipaddress
import socket
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitdeblur_jax.utils.hosts import is_loopback

_READS = ("GET", "HEAD")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware that refuses other hosts and origins, and adds security headers."""

    def __init__(self, app: ASGIApp, names: Collection[str], any_address: bool):
        """Wraps an application.

        Args:
          app: The application.
          names: The host names of the server, in lower case.
          any_address: Whether any IP address is accepted as host, not only those of loopback.
        """
        self._app, self._names, self._any_address = app, names, any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        fault = self._fault(scope["method"], headers)
        app = self._app if fault is None else PlainTextResponse(fault, status_code=403)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await app(scope, receive, send_guarded)

    def _fault(self, method: str, headers: Headers) -> str | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(_without_port(hosts[0])):
            return "This host name is not the server's. Open the address that it printed."
        if method not in _READS and headers.getlist("origin") != [f"http://{hosts[0]}"]:
            return "The request comes from another site."
        return None

    def _is_ours(self, host: str) -> bool:
        if host.lower() in self._names:
            return True
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return False
        return self._any_address or address.is_loopback


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def guard_of(app: ASGIApp, host: str) -> Guard:
    """Returns the guard of a server that listens on `host`."""
    names, is_local = {"localhost", host.lower()}, is_loopback(host)
    if not is_local:
        names.add(socket.gethostname().lower())
    return Guard(app, names, any_address=not is_local)
