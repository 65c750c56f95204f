# tries: to exhaust the process ids with children that only sleep
# verdict: failed
# prints: refused
import os
import time


def double(x):
    try:
        for _ in range(100_000):
            if os.fork() == 0:
                time.sleep(1000)
                os._exit(0)
    except OSError as error:
        print("refused:", error)
