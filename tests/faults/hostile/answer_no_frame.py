# tries: to announce an answer of 4 GB
# verdict: error
# error: TypeError
import os


def double(x):
    for fd in range(3, 64):
        try:
            os.write(fd, b"\xff\xff\xff\xff[")
        except OSError:
            continue
