# tries: to find the host's environment, its own and its ancestors'
# verdict: failed
# prints: looked
import os
from pathlib import Path

from canary import NAME


def double(x):
    if NAME in os.environ:
        print("ESCAPED")
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if NAME.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                print("ESCAPED", pid)
        except OSError as error:
            print("refused:", error)
    print("looked")
