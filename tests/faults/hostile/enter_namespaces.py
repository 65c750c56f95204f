# tries: to enter its init's namespaces
# verdict: failed
# prints: refused
import ctypes
import os


def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    for name in ("mnt", "user", "net", "pid"):
        try:
            file = os.open(f"/proc/1/ns/{name}", os.O_RDONLY)
        except OSError as error:
            print("refused:", error)
            file = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
        print("ESCAPED" if libc.setns(file, 0) >= 0 else f"refused: {ctypes.get_errno()}")
