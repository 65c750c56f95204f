# tries: to find the test's text in its own memory: objects, callers, and all that is mapped
# verdict: failed
# prints: searched
import gc
import sys

from canary import SECRET_HALVES

FIRST, SECOND = SECRET_HALVES  # never put together here: it would find its own text


def holds(text):
    at = text.find(FIRST)
    while at >= 0:
        if text[at + len(FIRST) : at + len(FIRST) + len(SECOND)] == SECOND:
            return True
        at = text.find(FIRST, at + 1)
    return False


def double(x):
    texts = [value for item in gc.get_objects() if isinstance(item, dict) for value in item.values() if isinstance(value, str)]
    frame = sys._getframe()
    while frame:
        texts += [value for value in frame.f_locals.values() if isinstance(value, str)]
        frame = frame.f_back
    if any(holds(text.encode(errors="replace")) for text in texts):
        print("ESCAPED")
    searched = 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
        for line in maps:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if line.split()[1].startswith("rw"):
                memory.seek(start)
                text = memory.read(end - start)
                searched += len(text)
                if holds(text):
                    print("ESCAPED", line)
    print("searched" if searched > 1_000_000 else "little", searched)
