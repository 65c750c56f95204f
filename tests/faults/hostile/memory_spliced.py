# tries: to keep pages of a file that is gone, in pipes: splice, tee, vmsplice
# verdict: failed
# prints: refused
import ctypes
import os


def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    file = os.open("pages", os.O_RDWR | os.O_CREAT)
    os.write(file, bytes(1 << 16))
    os.lseek(file, 0, os.SEEK_SET)
    (from_, into), (_, copy) = os.pipe(), os.pipe()
    page = ctypes.create_string_buffer(4096)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(page), 4096)
    print("refused" if libc.vmsplice(into, vector, 1, 0) < 0 else "ESCAPED vmsplice")
    print("refused" if libc.splice(file, None, into, None, 1 << 16, 0) < 0 else "ESCAPED splice")
    os.write(into, b"x")
    print("refused" if libc.tee(from_, copy, 1, 0) < 0 else "ESCAPED tee")
