# tries: to close every channel and go on
# verdict: error
# error: Exit
import os


def double(x):
    os.closerange(0, 1 << 16)
