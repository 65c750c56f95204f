# tries: to leave a daemon behind (double fork, setsid)
# verdict: failed
# prints: daemon
import os
import signal
import time


def double(x):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.write(1, b"daemon\n")
            while True:
                time.sleep(0.01)
        os._exit(0)
    time.sleep(0.1)
