# tries: to take all memory, a megabyte at a time
# verdict: memory
# cpu: 4
hoard = []


def double(x):
    while True:
        hoard.append(bytearray(1 << 20))
