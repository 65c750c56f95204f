# tries: to hold shared anonymous memory that it has told the kernel it does not need: no process has it resident
# verdict: failed
# prints: refused
import mmap
import os
import time

hoard = []


def fill():
    for _ in range(3):
        block = mmap.mmap(-1, 50 << 20)
        block.write(bytes(50 << 20))
        block.madvise(mmap.MADV_DONTNEED)
        hoard.append(block)


def double(x):
    if hoard:
        return x * 2
    try:
        fill()
    except OSError as error:
        print("refused:", error)
        return None
    for _ in range(4):
        if os.fork() == 0:
            hoard.clear()
            fill()
            time.sleep(1000)
    time.sleep(1)
    return x * 2
