# tries: to have a table of open files for each thread, where nobody looks
# verdict: failed
# prints: refused
import ctypes
import os

FILES, VM, SIGHAND, THREAD = 0x400, 0x100, 0x800, 0x1_0000


def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    print("refused" if libc.unshare(FILES) < 0 else "ESCAPED unshare")
    print("refused" if libc.syscall(436, 60, 63, 2) < 0 else "ESCAPED close_range")
    # a stack that no thread can start on: if one does, it ends all of this
    column = ("x86_64", "aarch64").index(os.uname().machine)
    print("refused" if libc.syscall((56, 220)[column], VM | SIGHAND | THREAD, 16, 0, 0, 0) < 0 else "ESCAPED clone")
