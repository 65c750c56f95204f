# tries: to recurse without end, the interpreter's limit lifted
# verdict: memory
# cpu: 4
import sys

sys.setrecursionlimit(10**9)


def double(x):
    return double(x)
