# tries: to make the kernel describe as many mappings as it can, in several processes
# verdict: memory
# cpu: 4
import ctypes
import mmap
import os
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
SIZE = 160 << 20

start = libc.mmap(None, ctypes.c_size_t(SIZE), mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
for page in range(start, start + SIZE, 8192):
    libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(4096), mmap.PROT_READ | mmap.PROT_WRITE)
waits, done = os.pipe()
for _ in range(6):
    if os.fork() == 0:
        os.write(done, b"x")
        time.sleep(1000)
for _ in range(6):
    os.read(waits, 1)


def double(x):
    return x * 2
