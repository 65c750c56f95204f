# tries: to drop the standard library from the machine's memory, so that whoever comes next waits for the disk
# verdict: failed
# prints: refused
import os


def double(x):
    with open(os.__file__, "rb") as file:
        try:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            print("ESCAPED")
        except OSError as error:
            print("refused:", error)
