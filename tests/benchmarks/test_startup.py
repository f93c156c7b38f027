"""What `benchmarks.startup` takes for granted of the command, and its medians."""

import pytest

from benchmarks import startup, startup_phases
from vitdeblur_jax.cli import restore
from vitdeblur_jax.inference import restore_files


def test_the_command_has_the_functions_that_are_timed():
    assert callable(restore._restore)
    for name in startup_phases._FUNCTIONS:
        assert callable(getattr(restore_files, name)), name


def test_a_failed_run_is_an_error():
    assert startup.run(["-c", "pass"], {})["CPU"] > 0
    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        startup.run(["-c", "1 / 0"], {})


def test_medians_are_those_of_each_figure():
    runs = [{"a": 1.0, "b": 5.0}, {"a": 2.0}, {"a": 9.0, "b": 1.0}]
    assert startup.medians(runs, ["b", "a"]) == ["1.00", "2.00"]
