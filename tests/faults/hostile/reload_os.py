# tries: to get back what a guard may have taken from os, and to use it
# verdict: failed
# prints: refused
import importlib
import os
import shutil
import subprocess

for module in (os, shutil, subprocess):
    importlib.reload(module)


def double(x):
    for act in (lambda: os.kill(1, 9), lambda: shutil.rmtree("/usr/lib"), lambda: os.system("echo ESCAPED > /tmp/x") and 1 / 0):
        try:
            act()
        except (OSError, ZeroDivisionError) as error:
            print("refused:", error)
    print("ESCAPED" if os.path.exists("/tmp/x") else "refused")
