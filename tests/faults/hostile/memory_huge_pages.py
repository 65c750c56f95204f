# tries: to map huge pages, which are resident for nobody
# verdict: failed
# prints: refused
import mmap

MAP_HUGETLB = 0x4_0000


def double(x):
    for kind in (mmap.MAP_PRIVATE, mmap.MAP_SHARED):
        try:
            block = mmap.mmap(-1, 2 << 20, kind | mmap.MAP_ANONYMOUS | MAP_HUGETLB)
            block[0] = 1
            print("ESCAPED")
        except OSError as error:
            print("refused:", error)
