# tries: to spread an endless loop over children that wait for each other
# verdict: timeout
import os


def double(x):
    while True:
        child = os.fork()
        if child == 0:
            for _ in range(1_000_000):
                pass
            os._exit(0)
        os.waitpid(child, 0)
