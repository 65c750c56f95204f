# tries: to backtrace for ever in a regular expression
# verdict: timeout
import re


def double(x):
    return re.match(r"(a+)+$", "a" * 64 + "b")
