# tries: to fill the checker's memory with 5 million lists, of three bytes each on the wire
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
    send(b'{"d":[["value",[' + b"[]," * 5_000_000 + b"1]]]}")
