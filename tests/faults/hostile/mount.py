# tries: to mount, and to make its tree writable
# verdict: failed
# prints: refused
import ctypes


def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    remount, bind = 0x1 << 5, 0x1 << 12
    for arguments in ((b"none", b"/", None, remount | bind), (b"proc", b"/tmp", b"proc", 0), (b"tmpfs", b"/tmp", b"tmpfs", 0)):
        source, target, kind, flags = arguments
        print("ESCAPED" if libc.mount(source, target, kind, ctypes.c_ulong(flags), None) >= 0 else "refused")
    print("ESCAPED" if libc.umount2(b"/proc", 2) >= 0 else "refused")
