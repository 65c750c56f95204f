# tries: to get out with the exceptions that programs seldom catch
# verdict: error
# error: KeyboardInterrupt
def double(x):
    raise KeyboardInterrupt
