# tries: to kill the server, the supervisor and the canary, by guessing their pids
# verdict: failed
# prints: still there
import contextlib
import os
import signal
import time

from canary import PID


def double(x):
    for pid in (PID, PID - 1, *range(2, 3000)):
        if pid != os.getpid():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                print("ESCAPED")
    time.sleep(0.05)
    print("still there")
