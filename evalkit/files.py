"""Files that are written whole or not at all, names for them, and the encoding of files that others wrote."""

import codecs
import gzip
import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from errno import EDQUOT, EIO, ENOSPC
from pathlib import Path

from evalkit.errors import DataError, EvalkitError, RunIncomplete, first_line

# UTF-32's first: its little-endian one begins with UTF-16's
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_GZIP = b"\x1f\x8b"  # how each such file begins, and no UTF-8 text
LONGEST_NAME = 160  # bytes of a file's or folder's name; file systems allow 255, and suffixes are added


def shortened(name: str) -> str:
    """The name, or its beginning with a hash of the whole where it is too long for a file system: the same name for the same text."""
    raw = name.encode("utf-8", "surrogatepass")
    if len(raw) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(raw).hexdigest()[:12]
    return f"{raw[: LONGEST_NAME - 13].decode('utf-8', 'ignore')}-{digest}"


def encoding_of(head: bytes) -> str:
    """The encoding that a file's byte order mark names (Windows writes UTF-16), or else UTF-8; decoding drops the mark."""
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), "utf-8-sig")


def read_text(path: Path, errors: str = "strict") -> str:
    """A text file in the encoding that its byte order mark names. Raises OSError and ValueError as Path.read_text does."""
    raw = path.read_bytes()
    return raw.decode(encoding_of(raw), errors)


def decoded(raw: bytes, name: str) -> str:
    """The text of a file, unpacked if it is gzip or its name says so, without a byte order mark. Raises DataError if it is damaged."""
    try:
        raw = gzip.decompress(raw) if name.endswith(".gz") or raw.startswith(_GZIP) else raw
        text = raw.decode(encoding_of(raw))
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not {error.encoding.upper()} text (byte {error.start}); save it as UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name} is not a readable gzip file ({first_line(error)}); it may be truncated") from None
    if "\0" in text[:2]:
        raise DataError(f"{name} begins with a NUL character, as UTF-16 does without a byte order mark; save it as UTF-8")
    return text


def unwritable(path: Path, error: OSError, fix: str = "give a path in a writable folder") -> EvalkitError:
    """The error to raise where a path can't be written: RunIncomplete where it could be, with more room or a sound disk."""
    if error.errno in (ENOSPC, EDQUOT, EIO):
        return RunIncomplete(f"cannot write {path}: {error.strerror}; free some space or mend the disk and run the same command again")
    return EvalkitError(f"cannot write {path}: {error.strerror}; {fix}")


def require_folder(folder: Path, option: str = "--out") -> None:
    """Raises EvalkitError where nothing could be written into this folder, which need not be there yet, and is not made here.

    Called before work is done whose result would be lost.
    """
    if os.path.isfile(folder):
        raise EvalkitError(f"cannot write {folder}: it is a file, not a folder; give {option} a path in a writable folder")
    with _writing(folder, option):
        with suppress(FileNotFoundError):
            os.stat(folder)  # is its name a possible one, and none of its parents a file?
        with tempfile.TemporaryFile(dir=next(place for place in (folder, *folder.parents) if os.path.lexists(place))):
            pass


def require_new_folder(folder: Path, option: str) -> None:
    """The same for a folder that must be new or empty."""
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise EvalkitError(f"{folder} is there already, and not an empty folder; name another, or remove it")
    require_folder(folder, option)


@contextmanager
def writing_weights(path: Path) -> Iterator[None]:
    """Raises RunIncomplete where the disk is full, and EvalkitError where weights can't be written for another reason."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from None
    except SafetensorError as error:  # it passes on the system's number of an error as text
        kind = RunIncomplete if "os error 28" in str(error) else EvalkitError
        raise kind(f"cannot write {path}: {first_line(error)}; free some space, or give another DEST") from None


def require_file(file: Path, option: str) -> None:
    """The same for a file."""
    if os.path.isdir(file):
        raise EvalkitError(f"{option} {file} is a folder; give a file's name")
    if not os.path.exists(file) or os.path.isfile(file):  # else a device, such as /dev/stdout
        require_folder(file.parent, option)
        with _writing(file, option), suppress(FileNotFoundError):
            os.stat(file)


@contextmanager
def _writing(path: Path, option: str) -> Iterator[None]:
    try:
        yield
    except ValueError:  # a NUL, which run.toml can hold
        raise EvalkitError(f"{option} {str(path)!r} can be no file's name; give another") from None
    except OSError as error:
        raise unwritable(path, error, f"give {option} a path in a writable folder") from None


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Write a text file of a run. Raises RunIncomplete if the disk is full or the folder is not writable."""
    with kept(path):
        stage(path, lines).replace(path)


def write_output(path: Path, content: str | bytes, append: bool = False) -> None:
    """Write a requested file; append to what is not a regular file (/dev/stdout). Raises EvalkitError if that fails."""
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "replace")
    try:
        if append or (path.exists() and not path.is_file()):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab") as f:
                f.write(raw)
        else:
            stage(path, raw).replace(path)
    except OSError as error:
        raise unwritable(path, error) from None


def stage(path: Path, content: bytes | Iterable[str]) -> Path:
    """The file under another name, through to the disk; nothing is left of it where that fails."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # two processes may write the same file of a cache
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(partial, "wb") as f:
            if isinstance(content, bytes):
                f.write(content)
            else:
                # half of a surrogate pair, which UTF-8 cannot hold, becomes JSON's own escape of it
                f.writelines(line.encode("utf-8", "backslashreplace") for line in content)
            f.flush()
            os.fsync(f.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return partial


def sync(folder: Path) -> None:
    """Through to the disk: what names the folder holds. Some file systems can't, and a missing folder has no names."""
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """A run's file that can't be written ends the run early, as RunIncomplete: what was answered is kept elsewhere."""
    try:
        yield
    except OSError as error:
        fix = "free some space or mend the disk and " if error.errno in (ENOSPC, EDQUOT, EIO) else ""
        raise RunIncomplete(f"cannot write {path}: {error.strerror}; nothing answered is lost, {fix}run the same command again") from None
