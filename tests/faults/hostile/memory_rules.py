# tries: to make the kernel keep rules of Landlock, one for every port of the network
# verdict: failed
# prints: refused
import ctypes

libc = ctypes.CDLL(None, use_errno=True)


def double(x):
    handled = (ctypes.c_uint64 * 2)(0, 3)
    for _ in range(20):
        rules = libc.syscall(444, handled, ctypes.c_size_t(16), 0)
        if rules < 0:
            return print("refused")
        for port in range(65536):
            libc.syscall(445, rules, 2, (ctypes.c_uint64 * 2)(1, port), 0)
    return x * 2
