# tries: to crash the interpreter
# verdict: killed
import ctypes


def double(x):
    ctypes.string_at(0)
