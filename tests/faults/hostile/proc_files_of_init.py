# tries: to open the files that its init holds
# verdict: failed
# prints: refused
import os


def double(x):
    try:
        print("ESCAPED", os.listdir("/proc/1/fd"))
    except OSError as error:
        print("refused:", error)
    for number in range(64):
        try:
            os.open(f"/proc/1/fd/{number}", os.O_RDWR)
            print("ESCAPED", number)
        except OSError:
            continue
