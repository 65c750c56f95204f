# tries: to run a program that it wrote itself
# verdict: failed
# prints: refused
import os


def double(x):
    with open("/tmp/script", "w") as file:
        file.write("#!/bin/sh\necho ESCAPED\n")
    os.chmod("/tmp/script", 0o4755)
    if os.fork() == 0:
        try:
            os.execv("/tmp/script", ["script"])
        except OSError as error:
            os.write(1, f"refused: {error}\n".encode())
        os._exit(1)
    os.wait()
