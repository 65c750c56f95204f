"""The formats of other programs: how a file of each is told, which module reads it, which writes it.

lm-eval's results are what is left: their reader (lm_eval_read.py) takes folders and files by name.
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from evalkit.codec import parse_json
from evalkit.errors import EvalkitError, unknown
from evalkit.exchange import evalplus, every_eval_ever_read, every_eval_ever_write, fastchat, hub, inspect, lm_eval_write, trackio
from evalkit.exchange.recorded import Recorded, Written, read_ours
from evalkit.files import read_text
from evalkit.record.read import is_ours

Writer = Callable[[Recorded, Path, Mapping[str, str]], Written]


@dataclass(frozen=True, slots=True)
class Format:
    """One format. A file is of it by its name's end or by the `keys` at the top of its JSON; a folder by a file that `inside` finds.

    `read` takes the file or folder, `write` a run, a folder and the options of the command line; None where it is not read or not written.
    """

    endings: tuple[str, ...] = ()
    keys: frozenset[str] = frozenset()
    inside: tuple[str, ...] = ()
    read: Callable[[Path], Recorded] | None = None
    write: Writer | None = None

    def is_of(self, place: Path, keys: Set[str]) -> bool:
        """Is this file, with these keys at the top, or this folder of the format?"""
        if place.is_dir():
            return any(next(place.glob(pattern), None) for pattern in self.inside)
        return place.name.endswith(self.endings) or (bool(self.keys) and self.keys <= keys)


FORMATS: Mapping[str, Format] = {
    "hub": Format((".yaml", ".yml"), inside=("*.yaml", ".eval_results/*.yaml"), read=hub.read, write=hub.write),
    "every-eval-ever": Format(
        keys=every_eval_ever_read.KEYS, inside=("data/*/*/*/*.json",), read=every_eval_ever_read.read, write=every_eval_ever_write.write
    ),
    "inspect": Format((".eval",), inspect.KEYS, inside=("*.eval",), read=inspect.read, write=inspect.write),
    "evalplus": Format(keys=evalplus.KEYS, inside=("*eval_results.json",), read=evalplus.read, write=evalplus.write),
    "fastchat": Format(("_single.jsonl",), inside=("model_judgment/*_single.jsonl",), read=fastchat.read, write=fastchat.write),
    "trackio": Format((".db",), inside=("*.db",), read=trackio.read, write=trackio.write),
    "lm-eval": Format(write=lm_eval_write.export),
}


def _keys(file: Path) -> set[str]:
    """The keys at the top of a JSON file; none where it is no such file."""
    if file.suffix != ".json":
        return set()
    try:
        raw = parse_json(read_text(file))
    except (OSError, ValueError):
        return set()
    return set(raw) if isinstance(raw, dict) else set()


def read_other(path: str) -> Recorded | None:
    """A run in one of these formats; None for evalkit's own and for lm-eval's, which have readers of their own. Raises EvalkitError."""
    place = Path(path)
    if is_ours(path) or any(place.glob("results_*.json")) or (place.is_file() and place.name.startswith("results_")):
        return None
    keys = _keys(place)
    found = {name: each for name, each in FORMATS.items() if each.read is not None and each.is_of(place, keys)}
    if len(found) > 1:
        raise EvalkitError(f"{path} holds files of {' and of '.join(found)}; give one file, or a folder of its own")
    return next((each.read(place) for each in found.values() if each.read is not None), None)


def export(path: str, to: str, out: str | None, options: Mapping[str, str]) -> Written:
    """Write a run in another format, into `out` or a folder of the format's name in the run's own; returns the files.

    Raises EvalkitError for an unknown format, a run that is not finished, and what the format can't hold.
    """
    if to not in FORMATS:
        raise unknown("format", to, FORMATS)
    write = FORMATS[to].write
    if write is None:
        raise EvalkitError(f"{to} is read, not written")
    recorded = read_other(path) or read_ours(path)
    return write(recorded, Path(out) if out else recorded.folder / to.replace("-", "_"), options)
