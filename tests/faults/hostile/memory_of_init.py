# tries: to read and write its init's memory
# verdict: failed
# prints: refused
def double(x):
    for path in ("/proc/1/mem", "/proc/1/maps", "/proc/kcore", "/dev/mem", "/dev/kmem"):
        try:
            with open(path, "rb") as file:
                print("ESCAPED", path, file.read(1))
        except OSError as error:
            print("refused:", error)
