# tries: to fill the folder of shared memory
# verdict: failed
# prints: refused
def double(x):
    try:
        for number in range(64):
            with open(f"/dev/shm/{number}", "wb") as file:
                file.write(bytes(1 << 20))
        return x * 2
    except OSError as error:
        print("refused:", error)
