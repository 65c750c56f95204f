# tries: to make timers without end
# verdict: failed
# prints: refused
import ctypes


def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    for number in range(1_000_000):
        if libc.timer_create(0, None, (ctypes.c_void_p * 1)()) < 0:
            print("refused after", number)
            return None
    return x * 2
