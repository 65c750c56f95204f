# tries: to change its init's limits, so that the next process starts with them
# verdict: failed
# prints: refused
import resource


def double(x):
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC):
        try:
            resource.prlimit(1, limit, (1, 1))
            print("ESCAPED")
        except OSError as error:
            print("refused:", error)
