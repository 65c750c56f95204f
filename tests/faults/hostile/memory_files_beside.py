# tries: to hold in files what is too much beside the memory of its processes
# verdict: memory
# cpu: 4
import os
import time

with open("file", "wb") as file:
    file.write(bytes(15 << 20))
waits, done = os.pipe()
for _ in range(2):
    if os.fork() == 0:
        block = b"x" * (120 << 20)
        os.write(done, b"x")
        time.sleep(1000)
for _ in range(2):
    os.read(waits, 1)


def double(x):
    return x * 2
