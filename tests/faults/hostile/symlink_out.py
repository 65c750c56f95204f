# tries: to reach a host's file through links
# verdict: failed
# prints: refused
import os
from pathlib import Path

from canary import FILE


def double(x):
    os.symlink(FILE, "/tmp/link")
    os.symlink("/proc/1/root" + FILE, "/tmp/root")
    os.symlink("../../../../../../.." + FILE, "/tmp/dots")
    for name in ("link", "root", "dots"):
        try:
            print("ESCAPED", Path(f"/tmp/{name}").read_text())
        except OSError as error:
            print("refused:", error)
    try:
        os.link(os.__file__, "/tmp/hard")
        print("ESCAPED")
    except OSError as error:
        print("refused:", error)
