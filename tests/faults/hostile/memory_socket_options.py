# tries: to give sockets larger buffers, and filters that the kernel compiles
# verdict: failed
# prints: refused
import socket
import struct

SO_ATTACH_FILTER = 26


def double(x):
    ends = socket.socketpair()
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF, SO_ATTACH_FILTER):
        try:
            value = struct.pack("HxxxxxxP", 1, id(ends)) if option == SO_ATTACH_FILTER else 8 << 20
            ends[0].setsockopt(socket.SOL_SOCKET, option, value)
            print("ESCAPED", option)
        except OSError as error:
            print("refused:", error)
