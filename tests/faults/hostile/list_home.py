# tries: to look at the homes and at what is mounted
# verdict: failed
# prints: refused
import os

from canary import FILE


def double(x):
    for folder in (os.path.dirname(FILE), "/var", "/sys", "/mnt", "/boot", "/etc/ssh", "/run", "/srv"):
        try:
            print("ESCAPED", os.listdir(folder))
        except OSError as error:
            print("refused:", error)
