# tries: to hold memory in events of files that nobody reads
# verdict: failed
# prints: refused
import ctypes

libc = ctypes.CDLL(None, use_errno=True)


def double(x):
    for start in (libc.inotify_init, lambda: libc.inotify_init1(0)):
        watch = start()
        if watch < 0:
            print("refused")
            continue
        libc.inotify_add_watch(watch, b"/tmp", 0xFFF)
        print("ESCAPED")
