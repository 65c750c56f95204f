# tries: to raise its own limits, and its init's
# verdict: failed
# prints: refused
import resource


def double(x):
    for name in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE):
        try:
            resource.setrlimit(name, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            print("ESCAPED", name)
        except (OSError, ValueError) as error:
            print("refused:", error)
