# tries: to connect to sockets of the host's: a path, an abstract name, Docker's
# verdict: failed
# prints: refused
import socket

from canary import ABSTRACT, SOCKET


def double(x):
    for address in (SOCKET, ABSTRACT, "/var/run/docker.sock", "/run/dbus/system_bus_socket"):
        try:
            with socket.socket(socket.AF_UNIX) as unix:
                unix.connect(address)
                print("ESCAPED", address)
        except OSError as error:
            print("refused:", error)
