# tries: to hold memory in threads whose process has lost its first one, and with it its place in /proc
# verdict: memory
# cpu: 4
import ctypes
import os
import threading
import time

libc = ctypes.CDLL(None)
column = ("x86_64", "aarch64").index(os.uname().machine)


def hold():
    time.sleep(0.2)
    block = b"x" * (120 << 20)
    os.write(done, b"x")
    time.sleep(1000)
    return block


waits, done = os.pipe()
for _ in range(4):
    if os.fork() == 0:
        threading.Thread(target=hold).start()
        libc.syscall((60, 93)[column], 0)  # exit, of this thread only
for _ in range(4):
    os.read(waits, 1)


def double(x):
    return x * 2
