# tries: to hold memory in what closed sockets have sent and nobody has received
# verdict: memory
# cpu: 4
import os
import socket
import time

left = []


def fill():
    while len(left) < 55:
        sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        sender.setblocking(False)
        try:
            while True:
                sender.send(bytes(100_000))
        except BlockingIOError:
            sender.close()
        left.append(receiver)


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
