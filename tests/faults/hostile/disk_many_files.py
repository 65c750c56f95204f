# tries: to use up the file system's inodes
# verdict: failed
# prints: refused
def double(x):
    try:
        for number in range(1_000_000):
            open(f"/tmp/{number}", "wb").close()
    except OSError as error:
        print("refused:", error)
