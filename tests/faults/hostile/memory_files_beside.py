# tries: to hold in files what is too much beside the memory of its processes
# verdict: memory
# cpu: 4
import os
import time

for _ in range(2):
    if os.fork() == 0:
        block = b"x" * (113 << 20)
        time.sleep(1000)
with open("file", "wb") as file:
    file.write(bytes(15 << 20))
time.sleep(2)


def double(x):
    return x * 2
