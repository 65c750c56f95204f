# tries: to leave through /proc: root, cwd, fd and map_files of every process
# verdict: failed
# prints: refused
import os
from pathlib import Path

from canary import FILE


def double(x):
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        for way in ("root", "cwd", "cwd/..", "task/1/root"):
            try:
                print("ESCAPED", Path(f"/proc/{pid}/{way}{FILE}").read_text())
            except OSError as error:
                print("refused:", error)
