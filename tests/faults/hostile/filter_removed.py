# tries: to take the filter off, or to trade it for one that lets all through
# verdict: failed
# prints: refused
import ctypes
import os


def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    instruction = (ctypes.c_uint64 * 1)(0x7FFF_0000_0000_0006)  # return ALLOW
    program = (ctypes.c_void_p * 2)(1, ctypes.addressof(instruction))
    libc.prctl(22, ctypes.c_ulong(2), program)
    libc.prctl(22, ctypes.c_ulong(0), None)
    libc.prctl(38, ctypes.c_ulong(0), 0, 0, 0)
    try:
        os.chroot("/tmp")
        print("ESCAPED")
    except OSError as error:
        print("refused:", error)
    print("ESCAPED" if libc.unshare(0x1000_0000) >= 0 else "refused")
