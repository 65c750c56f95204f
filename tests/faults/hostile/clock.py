# tries: to stop or to set the clock
# verdict: failed
# prints: refused
import signal
import time

time.time = time.monotonic = time.perf_counter = time.process_time = lambda: 0.0


def double(x):
    try:
        time.clock_settime(time.CLOCK_REALTIME, 0)
        print("ESCAPED")
    except OSError as error:
        print("refused:", error)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.setitimer(signal.ITIMER_PROF, 0)
