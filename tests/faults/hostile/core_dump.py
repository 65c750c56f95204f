# tries: to leave a core dump
# verdict: killed
import os
import resource


def double(x):
    print(resource.getrlimit(resource.RLIMIT_CORE))
    os.abort()
