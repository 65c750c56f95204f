# tries: to lock memory, which then cannot be moved
# verdict: failed
# prints: refused
import ctypes


def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    block = ctypes.create_string_buffer(1 << 20)
    print("refused" if libc.mlock(block, 1 << 20) < 0 else "ESCAPED")
    print("refused" if libc.mlockall(3) < 0 else "ESCAPED")
