# tries: to run for ever before the function is even called
# verdict: timeout
while True:
    pass


def double(x):
    return None
