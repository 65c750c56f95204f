# tries: to make the kernel remember what is too much beside its own memory: locks of every other byte of many files
# verdict: memory
# cpu: 8
import fcntl
import os
import time


def lock(done):
    files = [os.open(f"{os.getpid()}-{number}", os.O_RDWR | os.O_CREAT) for number in range(50)]
    for start in range(0, 660, 2):
        for file in files:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, start)
    os.write(done, b"x")
    time.sleep(1000)


block = b"x" * (160 << 20)
waits, done = os.pipe()
for _ in range(12):
    if os.fork() == 0:
        lock(done)
for _ in range(12):
    os.read(waits, 1)


def double(x):
    return x * 2
