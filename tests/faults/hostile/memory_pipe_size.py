# tries: to hold memory in pipes of a megabyte each
# verdict: failed
# prints: refused
import fcntl
import os


def double(x):
    _, end = os.pipe()
    try:
        print("ESCAPED", fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 1 << 20))
    except OSError as error:
        print("refused:", error)
