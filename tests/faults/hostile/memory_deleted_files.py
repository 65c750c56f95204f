# tries: to hold memory in files that have no name any more
# verdict: failed
# prints: refused
import os

hoard = []


def double(x):
    try:
        for _ in range(50):
            hoard.append(os.open("/tmp", os.O_TMPFILE | os.O_RDWR))
            os.write(hoard[-1], bytes(1 << 20))
        return x * 2
    except OSError as error:
        print("refused:", error)
