"""Reading of JSON files, with limits on size and depth."""

import json
import os
from typing import Any

from vitdeblur_jax.utils.buckets import read_start
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.files import check_regular

_LARGEST_JSON = 256 * 2**20
_DEEPEST_JSON = 64


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
      UserError: The file is missing, too large, nested too deeply, damaged or not an object.
    """
    check_regular(path)
    try:
        text = read_start(path, _LARGEST_JSON + 1)
        if len(text) > _LARGEST_JSON:
            raise UserError(f"{path}: too large for JSON (over {_LARGEST_JSON >> 20} MB)")
        return parse_json(text.decode("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)})") from error


def parse_json(text: str, where: str) -> dict[str, Any]:
    """Parses a JSON object; `where` names its file in errors.

    Raises:
      UserError: The text is nested too deeply, damaged or not an object.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise UserError(f"{where}: its JSON is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{where}: damaged JSON ({one_line(error)})") from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: its JSON holds {_kind(value)}; it must hold an object")
    if _is_deeper(value, _DEEPEST_JSON):
        raise UserError(f"{where}: its JSON is nested too deeply")
    return value


def _kind(value):
    kinds = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _is_deeper(value, levels):
    layer = [value]
    for _ in range(levels):
        inner = [part.values() if isinstance(part, dict) else part for part in layer]
        layer = [item for part in inner for item in part if isinstance(item, dict | list)]
        if not layer:
            return False
    return True
