# tries: to run for ever, whatever is raised
# verdict: timeout
def double(x):
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue
