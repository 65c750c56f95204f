# tries: to sleep for ever, which costs no CPU time
# verdict: timeout
import time


def double(x):
    time.sleep(10**6)
