# tries: to leave the checker waiting in the middle of an answer
# verdict: timeout
import os
import time


def double(x):
    for fd in range(3, 64):
        try:
            os.write(fd, (1_000_000).to_bytes(4, "big") + b"[")
        except OSError:
            continue
    time.sleep(1000)
