# tries: to become another user
# verdict: failed
# prints: refused
import os


def double(x):
    for change in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]), lambda: os.setresuid(0, 0, 0)):
        try:
            change()
            print("ESCAPED")
        except OSError as error:
            print("refused:", error)
