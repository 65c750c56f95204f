# tries: the old way out of a chroot
# verdict: failed
# prints: refused
import os


def double(x):
    os.mkdir("/tmp/inner")
    try:
        os.chroot("/tmp/inner")
        print("ESCAPED")
    except OSError as error:
        print("refused:", error)
