# tries: to print 10^9 bytes
# verdict: failed
# cpu: 20
import os


def double(x):
    chunk = b"x" * 1_000_000
    for _ in range(1000):
        sent = 0
        while sent < len(chunk):
            sent += os.write(1, chunk[sent:])
