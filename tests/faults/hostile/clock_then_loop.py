# tries: to run for ever with a clock that stands still
# verdict: timeout
import signal
import time

time.time = time.monotonic = time.perf_counter = time.process_time = lambda: 0.0
signal.signal(signal.SIGXCPU, signal.SIG_IGN)


def double(x):
    start = time.time()
    while time.time() - start < 1:
        pass
