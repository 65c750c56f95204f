# tries: to make the kernel keep page tables: one page touched in every gigabyte, the page of zeros, which counts for nobody
# verdict: memory
# cpu: 4
import ctypes
import mmap

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
MAP_FIXED_NOREPLACE = 0x10_0000


def double(x):
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
    for gigabyte in range(64, 64 + 50_000):
        page = libc.mmap(ctypes.c_void_p(gigabyte << 30), ctypes.c_size_t(4096), mmap.PROT_READ, flags, -1, 0)
        if page == gigabyte << 30:
            ctypes.string_at(page, 1)
    return x * 2
