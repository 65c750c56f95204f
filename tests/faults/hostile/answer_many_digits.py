# tries: to make the checker work out a number of 10 million digits
# verdict: error
# error: TypeError
import os


def send(body):
    for fd in range(3, 64):
        frame = memoryview(len(body).to_bytes(4, "big") + body)
        try:
            while frame:
                frame = frame[os.write(fd, frame) :]
        except OSError:
            continue


def double(x):
    send(b'{"d":[["value",' + b"9" * 10_000_000 + b"]]}")
