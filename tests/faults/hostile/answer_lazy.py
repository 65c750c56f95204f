# tries: to answer with something that is worked out where it is compared
# verdict: error
# error: TypeError
def double(x):
    return (item for item in [x, x])
