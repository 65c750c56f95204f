# tries: to hold shared anonymous memory in pieces that are allowed, none of it resident, in several processes
# verdict: memory
# cpu: 4
import mmap
import os
import time

hoard = []


def fill():
    for _ in range(100):
        block = mmap.mmap(-1, 1 << 20)
        block.write(bytes(1 << 20))
        block.madvise(mmap.MADV_DONTNEED)
        hoard.append(block)


waits, done = os.pipe()
for _ in range(4):
    if os.fork() == 0:
        fill()
        os.write(done, b"x")
        time.sleep(1000)
for _ in range(4):
    os.read(waits, 1)


def double(x):
    return x * 2
