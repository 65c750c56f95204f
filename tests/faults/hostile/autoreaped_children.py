# tries: to hide CPU time in children that nobody waits for
# verdict: timeout
import os
import signal
import time

signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def double(x):
    while True:
        try:
            if os.fork() == 0:
                end = time.process_time() + 0.2
                while time.process_time() < end:
                    pass
                os._exit(0)
        except OSError:
            time.sleep(0.01)
