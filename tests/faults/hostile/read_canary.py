# tries: to read a file of the host's
# verdict: failed
# prints: refused
from pathlib import Path

from canary import FILE


def double(x):
    try:
        print("ESCAPED", Path(FILE).read_text())
    except OSError as error:
        print("refused:", error)
