# tries: to take all memory again and again, whatever is raised
# verdict: timeout
hoard = []


def double(x):
    while True:
        try:
            hoard.append(bytearray(1 << 26))  # a bite so large that what is held at last is well below the limit of all processes
        except MemoryError:
            hoard.clear()
