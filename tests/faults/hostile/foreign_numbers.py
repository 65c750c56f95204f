# tries: to slip under the filter with an x32 system call
# verdict: refused
# machine: x86_64
import ctypes


def double(x):
    print("ESCAPED", ctypes.CDLL(None).syscall(ctypes.c_long(0x4000_0000 | 39)))
