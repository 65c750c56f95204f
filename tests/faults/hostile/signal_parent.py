# tries: to kill its parent, the jail's init
# verdict: failed
# prints: still there
import contextlib
import os
import signal
import time


def double(x):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
        for pid in (1, os.getppid()):
            with contextlib.suppress(OSError):
                os.kill(pid, number)
    time.sleep(0.05)
    print("still there")
