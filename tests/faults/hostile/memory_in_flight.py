# tries: to hold pipes that are open nowhere, only underway in a socket
# verdict: failed
# prints: refused
import os
import socket


def double(x):
    sender, receiver = socket.socketpair()
    try:
        for _ in range(1000):
            read, write = os.pipe()
            os.write(write, bytes(65536))
            socket.send_fds(sender, [b"x"], [read])
            os.close(read)
            os.close(write)
        return x * 2 if receiver else None
    except OSError as error:
        print("refused:", error)
