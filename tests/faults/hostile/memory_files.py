# tries: to hide memory in anonymous files (memfd), which no limit of a process counts
# verdict: failed
# prints: refused
import os


def double(x):
    try:
        while True:
            file = os.memfd_create("hoard")
            os.write(file, bytes(1 << 24))
            print("ESCAPED")
    except OSError as error:
        print("refused:", error)
