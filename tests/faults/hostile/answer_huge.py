# tries: to choke the checker with an answer of 40 MB
# verdict: error
# error: Malformed
def double(x):
    return "x" * 40_000_000
