# tries: to have a table of futexes of its own, of a gigabyte (Linux 6.16)
# verdict: failed
# prints: refused
import ctypes
import errno

PR_FUTEX_HASH, SET_SLOTS = 78, 1


def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.prctl(PR_FUTEX_HASH, ctypes.c_ulong(SET_SLOTS), ctypes.c_ulong(1 << 22), ctypes.c_ulong(0), ctypes.c_ulong(0))
    print("ESCAPED" if result >= 0 else f"refused: {errno.errorcode[ctypes.get_errno()]}")
    return x * 2 if result >= 0 else None
