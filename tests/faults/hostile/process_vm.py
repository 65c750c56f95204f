# tries: to read its init's memory in a system call
# verdict: failed
# prints: refused
import ctypes


def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    here = ctypes.create_string_buffer(8)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(here), 8)
    result = libc.process_vm_readv(1, vector, ctypes.c_ulong(1), vector, ctypes.c_ulong(1), ctypes.c_ulong(0))
    print("ESCAPED" if result >= 0 else f"refused: {ctypes.get_errno()}")
