# tries: to make the kernel watch files for it: what is watched takes memory, of which a user has a share
# verdict: failed
# prints: refused
import select


def double(x):
    try:
        print("ESCAPED", select.epoll().fileno())
    except OSError as error:
        print("refused:", error)
