# tries: to hold in the pipes of many processes what is too much beside their own memory
# verdict: memory
# cpu: 4
import os
import time


def fill():
    for _ in range(28):
        _, write = os.pipe()
        os.write(write, bytes(65536))
    time.sleep(1000)


block = b"x" * (170 << 20)
for _ in range(14):
    if os.fork() == 0:
        fill()
time.sleep(3)


def double(x):
    return x * 2
