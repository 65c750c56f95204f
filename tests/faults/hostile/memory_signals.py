# tries: to queue signals that are blocked, without end
# verdict: failed
# prints: refused
import ctypes
import os
import signal


def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {40})
    for number in range(1_000_000):
        if libc.sigqueue(os.getpid(), 40, ctypes.c_void_p(0)) < 0:
            print("refused after", number)
            return None
    return x * 2
