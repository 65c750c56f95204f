# tries: to make the kernel keep and compile filters of system calls, 4,000 instructions each
# verdict: failed
# prints: refused
import ctypes
import os


def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    instructions = (ctypes.c_uint64 * 4000)(*[0x7FFF_0000_0000_0006] * 4000)  # return ALLOW
    program = (ctypes.c_void_p * 2)(4000, ctypes.addressof(instructions))
    column = ("x86_64", "aarch64").index(os.uname().machine)
    for install in (lambda: libc.prctl(22, ctypes.c_ulong(2), program), lambda: libc.syscall((317, 277)[column], 1, 0, program)):
        print("refused" if install() < 0 else "ESCAPED")
