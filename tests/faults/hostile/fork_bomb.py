# tries: to fork without end
# verdict: timeout
import os


def double(x):
    while True:
        try:
            os.fork()
        except OSError:
            continue
