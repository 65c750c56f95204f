# tries: to use up the open files
# verdict: failed
# prints: refused
import os


def double(x):
    try:
        while True:
            os.pipe()
    except OSError as error:
        print("refused:", error)
