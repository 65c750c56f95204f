# tries: to overflow the C stack
# verdict: killed
import sys

sys.setrecursionlimit(10**9)


class Nest:
    def __repr__(self):
        return repr([self])


def double(x):
    return repr(Nest())
