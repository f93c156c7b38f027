"""Runs the command `vitdeblur` and writes the seconds of its phases; see `benchmarks.startup`.

    python -m benchmarks.startup_phases START FILE ARGUMENTS

START is the time at which the process was started, FILE is where the phases are written as JSON,
and ARGUMENTS are those of `vitdeblur`.
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path

IMPORT, LOAD, TRACE, COMPILE = "import", "load", "trace", "compile, or read the cache"
COMPUTE, FILES = "compute", "read and write the images"
# JAX reports the seconds that it spends on each program; the ends of the names of these events.
_EVENTS = {
    "jaxpr_trace_duration": TRACE,
    "jaxpr_to_mlir_module_duration": TRACE,
    "backend_compile_duration": COMPILE,
}
_FUNCTIONS = {
    "load_pretrained": LOAD,
    "on_local_devices": LOAD,
    "read_image": FILES,
    "deblur": COMPUTE,
    "write_image": FILES,
}


def main() -> None:
    """Runs the command."""
    from vitdeblur_jax.cli import restore
    from vitdeblur_jax.cli.main import main

    started, file = float(sys.argv[1]), Path(sys.argv[2])
    sys.argv = ["vitdeblur", *sys.argv[3:]]
    phases, work = Counter(), restore._restore

    def measured(options):
        from vitdeblur_jax.inference import restore_files

        phases[IMPORT] = time.time() - started
        _measure(restore_files, phases)
        status = work(options)
        file.write_text(json.dumps(phases))
        return status

    restore._restore = measured
    sys.exit(main())


def _measure(module, phases: Counter) -> None:
    """Makes the functions of the module, and JAX's events within them, count their seconds."""
    from jax import monitoring

    inner = Counter()  # the events since the current function began

    def count(event, seconds, **_):
        phase = _EVENTS.get(event.rpartition("/")[2])
        if phase is not None:
            inner[phase] += seconds

    def timed(function, phase):
        def wrapped(*args, **settings):
            inner.clear()
            began = time.perf_counter()
            result = function(*args, **settings)
            phases[phase] += time.perf_counter() - began
            if phase == COMPUTE:
                phases.update(inner)
                phases[phase] -= inner.total()
            return result

        return wrapped

    monitoring.register_event_duration_secs_listener(count)
    for name, phase in _FUNCTIONS.items():
        setattr(module, name, timed(getattr(module, name), phase))


if __name__ == "__main__":
    main()
