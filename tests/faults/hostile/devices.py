# tries: to make and to open devices
# verdict: failed
# prints: refused
import os
import stat


def double(x):
    for kind, device in ((stat.S_IFBLK, (254, 0)), (stat.S_IFBLK, (8, 0)), (stat.S_IFCHR, (1, 1))):
        try:
            os.mknod("/tmp/device", kind | 0o666, os.makedev(*device))
            print("ESCAPED")
        except OSError as error:
            print("refused:", error)
    for path in ("/dev/sda", "/dev/vda", "/dev/kmsg", "/dev/tty", "/dev/ptmx", "/dev/fuse", "/dev/kvm"):
        try:
            os.open(path, os.O_RDWR)
            print("ESCAPED", path)
        except OSError as error:
            print("refused:", error)
