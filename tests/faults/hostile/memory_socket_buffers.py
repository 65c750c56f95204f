# tries: to hold memory in the buffers of sockets, in many processes
# verdict: memory
# cpu: 4
import os
import socket
import time

pairs = []


def fill():
    while len(pairs) < 27:
        pairs.append(socket.socketpair())
        for end in pairs[-1]:
            end.setblocking(False)
            try:
                while True:
                    end.send(bytes(100_000))
            except BlockingIOError:
                pass


waits, done = os.pipe()
for _ in range(14):
    if os.fork() == 0:
        fill()
        os.write(done, b"x")
        time.sleep(1000)
for _ in range(14):
    os.read(waits, 1)


def double(x):
    return x * 2
