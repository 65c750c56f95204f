# tries: to stop itself, so that it neither ends nor runs
# verdict: timeout
import os
import signal


def double(x):
    os.kill(os.getpid(), signal.SIGSTOP)
