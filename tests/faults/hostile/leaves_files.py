# tries: to leave something behind for the next program
# verdict: failed
# prints: written
import pathlib


def double(x):
    pathlib.Path("/tmp/left").write_text("behind")
    pathlib.Path("/tmp/os.py").write_text("raise SystemExit(0)")
    print("written")
