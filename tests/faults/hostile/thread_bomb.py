# tries: to start threads without end
# verdict: failed
# prints: refused
import threading
import time


def double(x):
    try:
        for _ in range(100_000):
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    except RuntimeError as error:
        print("refused:", error)
