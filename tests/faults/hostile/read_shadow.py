# tries: to read the passwords' hashes and the users
# verdict: failed
# prints: refused
from pathlib import Path


def double(x):
    for path in ("/etc/shadow", "/etc/passwd", "/etc/ssl/private", "/root/.ssh/id_rsa"):
        try:
            print("ESCAPED", Path(path).read_text())
        except OSError as error:
            print("refused:", error)
