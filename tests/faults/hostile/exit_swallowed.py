# tries: to end where a test expects an exception, and catches everything
# verdict: error
# error: Exit
# test: def check(candidate):
# test:     try:
# test:         candidate(None)
# test:         assert False
# test:     except BaseException:
# test:         pass
import os


def double(x):
    os._exit(0)
