# tries: to hold memory in files without a byte on the disk, by touching what is mapped of them
# verdict: killed
import mmap
import os

hoard = []


def double(x):
    for _ in range(30):
        file = os.open("/tmp", os.O_TMPFILE | os.O_RDWR)
        os.ftruncate(file, 15 << 20)
        hoard.append(mmap.mmap(file, 15 << 20))
        for page in range(0, 15 << 20, 4096):
            hoard[-1][page] = 1
        hoard[-1].madvise(mmap.MADV_DONTNEED)
    return x * 2
