"""Parts for the tests of `benchmarks.accelerator`, which runs each in its own process."""

import os
import signal
import time


def complete(small, seconds):
    yield {"case": "small", "value": small}


def killed(small, seconds):
    yield {"case": "before", "value": 1}
    os.kill(os.getpid(), signal.SIGKILL)


def raising(small, seconds):
    yield {"case": "before", "value": 1}
    raise ValueError("no such device\nand more")


def hanging(small, seconds):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    yield {"case": "child", "value": child}
    time.sleep(60)
