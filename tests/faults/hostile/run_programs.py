# tries: to run other programs: a shell, Python, the loader
# verdict: failed
# prints: refused
import glob
import subprocess
import sys


def double(x):
    for program in ("/bin/sh", sys.executable, *glob.glob("/lib*/ld-linux*"), "/usr/bin/sudo"):
        try:
            subprocess.run([program, "-c", "echo ESCAPED"], check=False)
            print("ESCAPED")
        except OSError as error:
            print("refused:", error)
