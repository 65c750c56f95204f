# tries: to make the machine write everything to its disks, again and again
# verdict: failed
# prints: refused
import ctypes
import os


def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    column = ("x86_64", "aarch64").index(os.uname().machine)
    for number, arguments in (((162, 81), ()), ((306, 267), (0,))):
        print("refused" if libc.syscall(number[column], *arguments) < 0 else "ESCAPED")
