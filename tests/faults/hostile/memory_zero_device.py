# tries: to map the device of zeros, which gives shared memory of any size
# verdict: failed
# prints: refused
import mmap


def double(x):
    try:
        with open("/dev/zero", "r+b") as zeros:
            block = mmap.mmap(zeros.fileno(), 100 << 20)
        print("ESCAPED", len(block))
    except OSError as error:
        print("refused:", error)
