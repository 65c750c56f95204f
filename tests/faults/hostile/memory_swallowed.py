# tries: to take all memory again and again, whatever is raised
# verdict: timeout
hoard = []


def double(x):
    while True:
        try:
            hoard.append(bytearray(1 << 24))
        except MemoryError:
            hoard.clear()
