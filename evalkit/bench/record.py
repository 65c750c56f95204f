"""bench.json: what `evalkit bench` writes for one model."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Final, Literal

from evalkit.codec import OPTIONAL, Misfit, decode, parse_json, shown
from evalkit.errors import EvalkitError
from evalkit.files import read_text
from evalkit.record.schema import Environment, ModelInfo

SCHEMA: Final = 1
AGAIN = "measure again with evalkit bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """The least time that the device could take, from its measured bandwidth and FLOP/s, and the share of it that was reached."""

    floor_seconds: float
    share: float
    bandwidth_gb_s: float
    gflop_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One of the repeats: when it began (UTC), how long it took, and the most bytes held meanwhile, where they are counted."""

    started: str
    seconds: float
    peak_memory: int | None = None

    @property
    def span(self) -> tuple[datetime, datetime]:
        """Begin and end."""
        begin = datetime.fromisoformat(self.started)
        return begin, begin + timedelta(seconds=self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRecord:
    """One bench, whose figures are medians of its `timings`. `device` is a name ("the server's" of a remote one); `roofline` is None where
    the model's work is not known.
    """

    schema: Literal[1] = SCHEMA
    kind: Literal["bench"] = "bench"
    model: ModelInfo
    engine: str
    device: str
    dtype: str | None
    prompt_tokens: int
    output_tokens: int
    num_requests: int
    seed: int
    short_answers: int  # answers that ended before their last token
    seconds: float
    requests_per_second: float
    total_tokens_per_second: float
    output_tokens_per_second: float
    roofline: Roofline | None
    timings: tuple[Timing, ...] = field(default=(), metadata=OPTIONAL)
    environment: Environment

    @property
    def how(self) -> str:
        """Engine, dtype and device, as far as they are known (a server reports no dtype)."""
        return ", ".join(text for text in (self.engine, self.dtype, self.device) if text)

    @property
    def roofline_rate(self) -> float | None:
        """Tokens per second (input and output) at the device's roofline."""
        tokens = self.num_requests * (self.prompt_tokens + self.output_tokens)
        return tokens / self.roofline.floor_seconds if self.roofline else None


def of_repeats(records: Sequence[BenchRecord]) -> BenchRecord:
    """Several benches of one model as one record."""
    names = ("seconds", "requests_per_second", "total_tokens_per_second", "output_tokens_per_second")
    medians = {name: median(getattr(record, name) for record in records) for name in names}
    first = records[0]
    roofline = first.roofline and replace(first.roofline, share=first.roofline.floor_seconds / medians["seconds"])
    timings = tuple(timing for record in records for timing in record.timings)
    return replace(first, roofline=roofline, timings=timings, short_answers=max(record.short_answers for record in records), **medians)


def bench_file(path: str) -> Path:
    """A bench record by its path, or by that of its folder."""
    place = Path(path)
    return place / "bench.json" if place.is_dir() else place


def read_bench(file: Path) -> BenchRecord:
    """Read a bench record. Raises EvalkitError if it is damaged, has another schema, or does not fit it."""
    try:
        raw = parse_json(read_text(file))
    except (OSError, ValueError) as error:
        raise EvalkitError(f"cannot read {file}: {error}") from None
    if not isinstance(raw, dict) or raw.get("kind") != "bench" or raw.get("schema") != SCHEMA:
        raise EvalkitError(f"{file} is not a bench record of schema {SCHEMA}, which this evalkit reads")
    record = decode(BenchRecord, raw, str(file), AGAIN)
    try:
        _check(record)
    except Misfit as misfit:
        raise EvalkitError(f"{file}: {misfit}; {AGAIN}") from None
    return record


def _check(record: BenchRecord) -> None:
    """Raises Misfit for a figure that no bench can measure: what is computed of them divides by durations and compares times."""
    for name in ("seconds", "requests_per_second"):
        _require_positive(getattr(record, name), name)
    if record.roofline:
        _require_positive(record.roofline.floor_seconds, "floor_seconds", "roofline")
    for i, timing in enumerate(record.timings):
        place = (i, "timings")
        _require_positive(timing.seconds, "seconds", *place)
        if timing.peak_memory is not None:
            _require_positive(timing.peak_memory, "peak_memory", *place)
        try:
            has_zone = datetime.fromisoformat(timing.started).utcoffset() is not None
        except ValueError:
            has_zone = False
        if not has_zone:
            raise Misfit(f"is {shown(timing.started)}, expected a time with its zone, as 2026-01-01T12:00:00+00:00", "started", *place)
        try:
            begin, end = (each.astimezone(UTC) for each in timing.span)
        except OverflowError:
            found = f"is {shown(timing.seconds)}, which from {timing.started} on"
            raise Misfit(f"{found} is not within the years 1 to 9999", "seconds", *place) from None
        if begin == end:
            raise Misfit(f"is {shown(timing.seconds)}, expected at least a microsecond", "seconds", *place)


def _require_positive(value: float, *keys: str | int) -> None:
    if value <= 0:
        raise Misfit(f"is {shown(value)}, expected more than 0", *keys)


def is_bench(path: Path) -> bool:
    """Whether this file says that it is a bench record; False for a file that cannot be parsed."""
    try:
        raw = parse_json(read_text(path))
    except (OSError, ValueError):
        return False
    return isinstance(raw, dict) and raw.get("kind") == "bench"


def ratio(model: BenchRecord, baseline: BenchRecord) -> float:
    """Requests per second of one model, divided by the other's."""
    return model.requests_per_second / baseline.requests_per_second
