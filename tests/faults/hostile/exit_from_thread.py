# tries: to end with exit code 0 from another thread, in the middle of the test
# verdict: error
# error: Exit
import os
import threading
import time


def double(x):
    threading.Timer(0.05, os._exit, (0,)).start()
    time.sleep(10)
