# tries: to hold memory in message queues and semaphores, System V's and POSIX's
# verdict: failed
# prints: refused
import ctypes


def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    rt = ctypes.CDLL("librt.so.1", use_errno=True)
    print("refused" if libc.msgget(0, 0o1600) < 0 else "ESCAPED msgget")
    print("refused" if libc.semget(0, 250, 0o1600) < 0 else "ESCAPED semget")
    print("refused" if rt.mq_open(b"/hoard", 0o102, 0o600, None) < 0 else "ESCAPED mq_open")
