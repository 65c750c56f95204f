# tries: to connect to a server on the host
# verdict: failed
# prints: refused
import socket

from canary import PORT


def double(x):
    for host in ("127.0.0.1", "::1", "10.0.0.1", "169.254.169.254"):
        try:
            with socket.create_connection((host, PORT), timeout=0.2):
                print("ESCAPED")
        except OSError as error:
            print("refused:", error)
