# tries: to write, truncate and delete a file of the host's
# verdict: failed
# prints: refused
import os
from pathlib import Path

from canary import FILE


def double(x):
    for change in (
        lambda: Path(FILE).write_text(""),
        lambda: os.truncate(FILE, 0),
        lambda: os.unlink(FILE),
        lambda: os.rename(FILE, "/tmp/x"),
    ):
        try:
            change()
            print("ESCAPED")
        except OSError as error:
            print("refused:", error)
