# tries: to run for ever in one call that looks at no signal
# verdict: timeout
def double(x):
    return 7 ** (7**12) % 10
