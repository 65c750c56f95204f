# tries: to write anywhere but in /tmp
# verdict: failed
# prints: refused
import os


def double(x):
    for folder in ("/", "/dev", "/etc", "/proc", "/lib", "/usr/lib", "/var/tmp", "/run", os.path.dirname(os.__file__)):
        try:
            open(f"{folder}/hostile", "w").close()
            print("ESCAPED", folder)
        except OSError as error:
            print("refused:", error)
