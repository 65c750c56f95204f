# tries: to attach to its init as a debugger
# verdict: failed
# prints: refused
import ctypes


def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (16, 0x4206):  # PTRACE_ATTACH, PTRACE_SEIZE
        print("ESCAPED" if libc.ptrace(request, 1, None, None) >= 0 else f"refused: {ctypes.get_errno()}")
