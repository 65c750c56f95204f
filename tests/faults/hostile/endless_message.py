# tries: to run for ever in the text of an exception
# verdict: timeout
class Slow(Exception):
    def __str__(self):
        while True:
            pass


def double(x):
    raise Slow
