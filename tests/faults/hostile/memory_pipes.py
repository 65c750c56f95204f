# tries: to hold in the pipes of many processes what is too much beside their own memory
# verdict: memory
# cpu: 4
import os
import time


def fill():
    for _ in range(28):
        _, write = os.pipe()
        os.write(write, bytes(65536))


block = b"x" * (195 << 20)
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
