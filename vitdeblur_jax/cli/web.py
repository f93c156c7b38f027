"""`vitdeblur web`: a local page that restores images in the browser."""

import argparse
import importlib.util

from vitdeblur_jax.cli.own_network import add_network, chosen_network
from vitdeblur_jax.cli.parser import Parser
from vitdeblur_jax.cli.process import error_message, find_devices, first_imports, import_jax
from vitdeblur_jax.utils.errors import UserError

_DESCRIPTION = """\
Serves a page to which you drop images: before and after, strength, the map of the change, download.
Only this machine can open it, unless --host says otherwise. Needs the extra `web`. Everything is
deleted when the server ends.
"""
_PORT = 7870


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = Parser("vitdeblur web", description=_DESCRIPTION)
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        help="a checkpoint to choose on the page, beside the bundled model; may be repeated",
    )
    add_network(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address or name to listen on; 0.0.0.0 lets other machines open the page, without "
        "encryption (default: 127.0.0.1, this machine only)",
    )
    parser.add_argument(
        "--port", type=int, default=_PORT, help=f"0 for any free one (default: {_PORT})"
    )
    parser.set_defaults(run=_run)
    return parser


def _run(options) -> None:
    if not all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn")):
        raise UserError(
            "vitdeblur web needs Starlette and Uvicorn: pip install 'vitdeblur_jax[web]'"
        )
    with first_imports():
        import_jax()
        from vitdeblur_jax.web.serve import serve
    find_devices()
    network = chosen_network(options.network)
    serve(options.checkpoint, network, options.host, options.port, error_message)
