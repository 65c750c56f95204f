# tries: to print without end from many processes
# verdict: timeout
import os


def double(x):
    for _ in range(3):
        os.fork()
    while True:
        os.write(2, b"x" * 65536)
