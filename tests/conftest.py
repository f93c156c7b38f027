"""Set-up of a process of the tests, before it imports what they need."""

import gc
import logging
import signal

from tests.annotations import check_annotations
from tests.compilation import compile_fast_and_cache, drop_large_cache
from tests.memory import share_malloc_arenas

check_annotations()


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)  # child processes inherit it
    is_worker = hasattr(config, "workerinput")
    if not is_worker:
        drop_large_cache()
    if is_worker or not config.getoption("numprocesses", None):  # else it only hands out tests
        share_malloc_arenas()
        logging.getLogger().addHandler(logging.NullHandler())  # else Orbax adds one to stderr
        gc.disable()  # until all tests are imported
        compile_fast_and_cache()
        config.pluginmanager.import_plugin("tests.fixtures")


def pytest_collection_finish():
    """Makes garbage collection rarer, and lets it skip the imported modules, 0.3 s each time.

    With Python's default thresholds, it takes a tenth of the time of tests that trace.
    """
    gc.freeze()
    gc.set_threshold(5000, 10, 50)
    gc.enable()
