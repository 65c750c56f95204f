# tries: the kernel's large and dangerous calls: bpf, keyctl, perf, userfaultfd, io_uring, modules, kexec, reboot
# verdict: failed
# prints: refused
import ctypes
import os

CALLS = {
    "bpf": (321, 280),
    "keyctl": (250, 219),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "init_module": (175, 105),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
    "open_by_handle_at": (304, 265),
    "statmount, newer than the filter": (457, 457),
}


def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    column = ("x86_64", "aarch64").index(os.uname().machine)
    for name, numbers in CALLS.items():
        result = libc.syscall(numbers[column], 0, 0, 0, 0, 0)
        # EPERM or ENOSYS from the filter; the kernel itself would complain about the arguments
        print(f"ESCAPED {name}" if result >= 0 or ctypes.get_errno() not in (1, 38) else f"refused: {name}")
