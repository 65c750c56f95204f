# tries: to kill its process group
# verdict: killed
import os
import signal


def double(x):
    os.killpg(0, signal.SIGKILL)
