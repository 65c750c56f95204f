# tries: to outlive every limit by ignoring all signals
# verdict: timeout
import contextlib
import signal

for number in signal.valid_signals():
    with contextlib.suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_IGN)


def double(x):
    while True:
        pass
