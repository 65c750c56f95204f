# tries: sys.exit(0) inside try, and out of finally
# verdict: error
# error: SystemExit
import sys


def double(x):
    try:
        sys.exit(0)
    finally:
        sys.exit(0)
