# tries: to put its own code into the standard library, for the next program
# verdict: failed
# prints: refused
import os
import random


def double(x):
    for path in (os.__file__, random.__file__, random.__cached__):
        try:
            open(path, "a").close()
            print("ESCAPED", path)
        except OSError as error:
            print("refused:", error)
