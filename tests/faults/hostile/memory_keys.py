# tries: to hold memory in the kernel's keyrings, where it outlives the program
# verdict: failed
# prints: refused
import ctypes
import os


def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    column = ("x86_64", "aarch64").index(os.uname().machine)
    key = libc.syscall((248, 217)[column], b"user", b"hoard", bytes(32_000), ctypes.c_size_t(32_000), ctypes.c_long(-4))
    print("refused" if key < 0 else "ESCAPED")
