# tries: to map more memory than allowed
# verdict: failed
# prints: refused
import mmap


def double(x):
    try:
        mmap.mmap(-1, 1 << 40)
    except OSError as error:
        print("refused:", error)
