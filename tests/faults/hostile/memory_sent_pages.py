# tries: to keep pages of a file that is gone, each by two of its bytes, in sockets
# verdict: failed
# prints: refused
import os
import socket


def double(x):
    sender, _receiver = socket.socketpair()
    file = os.open("pages", os.O_RDWR | os.O_CREAT)
    try:
        for _ in range(200):
            os.pwrite(file, bytes(8192), 0)
            os.sendfile(sender.fileno(), file, 4095, 2)
            os.ftruncate(file, 0)
        return x * 2
    except OSError as error:
        print("refused:", error)
