# tries: to change the values of its callers with a trace function
# verdict: failed
import sys


def trace(frame, event, argument):
    if "report" in frame.f_locals:
        frame.f_locals["report"] = {"value": 42, "verdict": "passed"}
    return trace


sys.settrace(trace)
sys.setprofile(trace)


def double(x):
    frame = sys._getframe(1)
    frame.f_trace = trace
