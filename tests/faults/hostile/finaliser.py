# tries: to change the verdict from finalisers and the garbage collector
# verdict: failed
import gc


class Last:
    def __del__(self):
        print("passed")
        while True:
            pass


keep = Last()
gc.callbacks.append(lambda *_: print("passed"))


def double(x):
    gc.collect()
