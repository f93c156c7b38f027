"""What reaches a terminal, and what streams that are closed, full or broken do to the work."""

import ast
import errno
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vitdeblur_jax
from tests import made_up_data
from vitdeblur_jax.utils import output
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.output import printable, read_input, show, tell, write_result


class Failing(io.StringIO):
    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def flush(self):
        raise self.error


FULL = OSError(errno.ENOSPC, "No space left on device")
BROKEN = BrokenPipeError(errno.EPIPE, "Broken pipe")
BAD_STREAMS = {"closed before the start": None, "full": Failing(FULL), "broken": Failing(BROKEN)}


@pytest.fixture
def closed():
    stream = io.TextIOWrapper(io.BytesIO())
    stream.close()
    return stream


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("für 12 × 3.png", "für 12 × 3.png"),
        ("a\x1b[31mb\x9b2Jc", r"a\x1b[31mb\x9b2Jc"),
        ("a\nerror: b\r\tc\0", r"a\nerror: b\r\tc\x00"),
        ("caf\udce9.png", r"caf\udce9.png"),  # how Python reads a name that is not UTF-8
        ("a\u202egnp.exe\u2028", r"a\u202egnp.exe\u2028"),
    ],
)
def test_no_text_can_steer_a_terminal(text, expected, capsys):
    assert printable(text) == expected
    tell(text)
    show(text)
    assert capsys.readouterr() == (f"{expected}\n", f"{expected}\n")


def test_tracebacks_of_bugs_cannot_steer_a_terminal_either(capsys):
    try:
        raise ValueError("a\x1b[31m\nb")
    except ValueError as error:
        output.tell_traceback(error)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2:] == [r"ValueError: a\x1b[31m", "b"]


def test_what_an_encoding_lacks_is_escaped(monkeypatch):
    streams = {name: io.TextIOWrapper(io.BytesIO(), "ascii") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    tell("für")
    show("für", styled=True)
    for stream in streams.values():
        assert stream.buffer.getvalue() == b"f\\xfcr\n"


@pytest.mark.parametrize("stream", BAD_STREAMS.values(), ids=BAD_STREAMS)
def test_a_bad_standard_error_loses_lines_and_nothing_else(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    tell("note")
    assert not output.standard_error.isatty()


def test_a_closed_stream_object_is_as_a_closed_stream(closed, monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, closed)
    tell("note")
    with pytest.raises(UserError, match="standard output is closed"):
        write_result(b"png")
    with pytest.raises(UserError, match="standard input is closed"):
        read_input()


def test_a_result_that_cannot_be_written_is_an_error_unless_nobody_reads(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Failing(FULL))
    with pytest.raises(UserError, match=r"standard output cannot be written \(No space left"):
        show("table")
    for stream in (Failing(BROKEN), None):
        monkeypatch.setattr(sys, "stdout", stream)
        show("table")


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("{} --help > /dev/full", 2, "error: standard output cannot be written (No space left"),
        ("{} --help | true", 0, ""),
        ("{} --help >&-", 0, ""),
        ("{} --help 2>/dev/full >/dev/null", 0, ""),
        ("{} --wrong 2>/dev/full", 2, ""),
        ("{} --wrong 2>&-", 2, ""),
    ],
)
def test_streams_of_a_real_process(command, status, said, tmp_path):
    program = f"{sys.executable} -m vitdeblur_jax"
    command = f"set -o pipefail; {command.format(program)}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr[: len(said) or None]) == (status, said)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("{} photo.png 2>&- && test -s photo_restored.png", 0),
        ("{} photo.png 2>/dev/full && test -s photo_restored.png", 0),
        ("{} - <&-", 2),
        ("{} - -o - < photo.png >&-", 2),
        ("{} - -o - < photo.png > /dev/full", 2),
        ("{} data check set | true", 0),
        ("{} data check set > /dev/full", 2),
        ("{} score --data set --set pairs --metrics mae A=set/blurred | true", 0),
        ("{} score --data set --set pairs --metrics mae A=set/blurred > /dev/full", 2),
    ],
)
def test_streams_of_each_command(command, status, tmp_path):
    made_up_data.pairs(tmp_path / "set")
    made_up_data.write(tmp_path / "photo.png", 0)
    program = f"{sys.executable} -m vitdeblur_jax"
    command = f"set -o pipefail; {command.format(program)}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == (status == 2)


def test_a_file_never_takes_the_place_of_a_closed_stream(tmp_path):
    """What a C library prints on standard error would go into that file."""
    program = "from vitdeblur_jax.utils.output import occupy_closed_streams as occupy"
    program += "; occupy(); print(open('x').fileno())"
    (tmp_path / "x").touch()
    command = f'{sys.executable} -c "{program}" 2>&- <&-'
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "3\n"


def _prints(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        is_print = isinstance(node, ast.Name) and node.id == "print"
        is_stream = isinstance(node, ast.Attribute) and ast.unparse(node) in (
            "sys.stdout",
            "sys.stderr",
            "sys.stdin",
            "tqdm.write",
        )
        if is_print or is_stream:
            found.append(f"{path.name}:{node.lineno}")
    return found


def test_only_one_module_prints():
    package = Path(vitdeblur_jax.__file__).parent
    paths = [path for path in package.rglob("*.py") if path != Path(output.__file__)]
    assert [found for path in paths for found in _prints(path)] == []


def test_the_end_of_the_process_does_not_flush_standard_error(monkeypatch):
    """Python 3.13 prints a traceback where modules are gone by then."""
    flushed = []
    monkeypatch.setattr(type(output.standard_error), "flush", lambda self: flushed.append(1))
    type(output.standard_error)()  # deleted at once
    assert flushed == []


def test_lines_of_a_c_library_are_collected_and_all_others_printed(capfd):
    with output.c_messages(re.compile(rb"lib: (.*)$")) as messages:
        os.write(2, b"lib: bad\nother\n")
        tell("ours")
    assert messages == ["bad"]
    assert sorted(capfd.readouterr().err.splitlines()) == ["other", "ours"]
    with pytest.raises(ValueError, match="kept"), output.c_messages(re.compile(rb"(.*)$")):
        raise ValueError("kept")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"
