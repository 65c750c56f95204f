# tries: to kill every process there is
# verdict: failed
# prints: still there
import contextlib
import os
import signal
import time


def double(x):
    with contextlib.suppress(OSError):
        os.kill(-1, signal.SIGKILL)
    time.sleep(0.05)
    print("still there")
