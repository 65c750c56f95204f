# tries: to unpack a small archive into gigabytes
# verdict: memory
import zlib


def double(x):
    packer = zlib.compressobj(1)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(16)) + packer.flush()
    hoard = []
    while True:
        hoard.append(zlib.decompress(bomb))
