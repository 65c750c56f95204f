# tries: to take more memory than allowed in several processes, each within its own limit
# verdict: memory
import os
import time


def double(x):
    for _ in range(6):
        if os.fork() == 0:
            block = b"x" * (100 << 20)
            time.sleep(1000)
            os._exit(len(block) & 1)
    time.sleep(1000)
