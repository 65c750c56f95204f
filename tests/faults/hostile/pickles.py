# tries: to send an object that runs code where it is unpacked
# verdict: error
# error: TypeError
import os


class Bomb:
    def __reduce__(self):
        return os.system, ("echo ESCAPED",)


def double(x):
    return {"answer": [Bomb()]}
