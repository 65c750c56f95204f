# tries: to end with exit code 0 before it is tested
# verdict: error
# error: Exit
import os

os._exit(0)


def double(x):
    return None
