# tries: to make a text four times as wide by one character of it
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
    send(b'{"d":[["value","' + "\U0001f600".encode() + b"x" * 16_000_000 + b'"]]}')
