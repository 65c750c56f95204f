# tries: to send the checker bytes that are no answer
# verdict: error
# error: TypeError
import os


def double(x):
    body = b"[" * 1_000_000
    frame = len(body).to_bytes(4, "big") + body
    for fd in range(3, 64):
        try:
            os.write(fd, frame)
        except OSError:
            continue
