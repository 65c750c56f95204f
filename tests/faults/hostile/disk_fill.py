# tries: to fill the disk
# verdict: failed
# prints: refused
def double(x):
    try:
        for number in range(1000):
            with open(f"/tmp/{number}", "wb") as file:
                file.write(bytes(10 << 20))
    except OSError as error:
        print("refused:", error)
