# tries: to take a terabyte in one piece
# verdict: memory
def double(x):
    return bytearray(1 << 40)
