# tries: to hide memory in System V segments, which outlive their process
# verdict: failed
# prints: refused
import ctypes


def double(x):
    segment = ctypes.CDLL(None).shmget(0, 1 << 28, 0o1600)
    print("ESCAPED" if segment >= 0 else "refused")
