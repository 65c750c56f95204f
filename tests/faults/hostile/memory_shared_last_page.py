# tries: to keep shared anonymous memory alive by one page of it, the rest unmapped
# verdict: memory
# cpu: 4
import ctypes
import mmap

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p


def double(x):
    size = 1 << 20
    for _ in range(400):
        block = libc.mmap(None, ctypes.c_size_t(size), mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, -1, 0)
        ctypes.memset(block, 1, size)
        libc.munmap(ctypes.c_void_p(block + 4096), ctypes.c_size_t(size - 4096))
    return x * 2
