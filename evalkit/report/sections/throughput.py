"""The throughput table: published requests and tokens per second beside bench records, and the claimed ratio beside the measured one."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from evalkit.bench.record import BenchRecord, ratio
from evalkit.codec import encode
from evalkit.report.document import Block, Grid, Notes, Section
from evalkit.report.inputs import Inputs
from evalkit.report.plots.throughput import throughput_plot
from evalkit.report.published import PublishedTable, Row, slug
from evalkit.report.verdict import Verdict

TOLERANCE = 0.1  # a single timing has no interval: within 10% it counts as the same
FIELDS = (
    *("model", "spec", "published_requests_per_second", "published_tokens_per_second", "requests_per_second", "total_tokens_per_second"),
    *("output_tokens_per_second", "roofline_tokens_per_second", "verdict", "reason", "engine", "device", "dtype"),
    *("prompt_tokens", "output_tokens", "num_requests", "seconds"),
)
HEAD = (
    *("Model", "Published requests/s", "Published tokens/s", "Requests/s", "Tokens/s", "Output tokens/s", "Of the roofline", "Verdict"),
    *("How", "Requests"),
)


def section(inputs: Inputs) -> Section | None:
    """Table, ratio and plot; None if the published table has no throughput."""
    if (table := inputs.table) is None or table.throughput is None:
        return None
    printed, benches = table.throughput, inputs.benches
    found = list(_figures(table, benches))
    measured, on_ratio = ratio_verdict(table, benches)
    blocks: list[Block] = [
        f"Published: {printed.source}; {printed.engine} on one {printed.device}, {printed.prompt_tokens:,} tokens in and "
        f"{printed.output_tokens:,} out; {printed.note}. Tokens a second depend on the device, so the primary figure is the ratio.",
        Grid("throughput", "Requests and tokens a second", "lrrrrrrplr", HEAD, [_row(row, bench, table) for row, bench in found]),
        Grid(
            "throughput-ratio",
            "The claimed ratio",
            "lrrp",
            ("Claim", "Published", "Measured", "Verdict"),
            [(f"{printed.model} against {printed.baseline} ({printed.origin})", f"{printed.ratio:.2f}", measured, on_ratio)],
        ),
    ]
    if benches:
        blocks.append(Notes("What was measured", [_provenance(bench) for bench in benches]))
    if plot := throughput_plot(table, benches):
        blocks.append(plot)
    verdicts = [_verdict(row, bench, table) for row, bench in found if row and row.throughput]
    return Section("throughput", "Throughput", blocks, [*verdicts, on_ratio], {"throughput": _to_csv(found, table)})


def is_bench_of(row: Row, bench: BenchRecord) -> bool:
    """Whether a bench record is of this model. Random weights of its configuration are as fast as trained ones."""
    spec = bench.model.spec
    return row.is_model(spec) or (spec.startswith("random:") and slug(spec.removeprefix("random:")) == row.slug)


def _figures(table: PublishedTable, benches: Sequence[BenchRecord]) -> Iterator[tuple[Row | None, BenchRecord | None]]:
    """Every published row, once per record of its model, then records of other models."""
    for row in table.rows:
        matching = [bench for bench in benches if is_bench_of(row, bench)]
        yield from ((row, bench) for bench in matching)
        if not matching and row.throughput:
            yield row, None
    yield from ((None, bench) for bench in benches if not any(is_bench_of(row, bench) for row in table.rows))


def _verdict(row: Row | None, bench: BenchRecord | None, table: PublishedTable) -> Verdict:
    assert table.throughput
    if bench is None:
        return Verdict("not measured")
    if row is None or row.throughput is None:
        return Verdict("nothing published")
    printed = table.throughput
    if (bench.prompt_tokens, bench.output_tokens) != (printed.prompt_tokens, printed.output_tokens):
        return Verdict("not comparable", f"{bench.prompt_tokens:,} tokens in and {bench.output_tokens:,} out")
    if bench.short_answers:
        return Verdict("not comparable", f"{bench.short_answers:,} answers ended early: the engine ignores ignore_eos")
    if not _same_device(bench.device, printed.device):
        return Verdict("cannot tell", f"published on one {printed.device}, measured on {bench.device}")
    near = abs(bench.total_tokens_per_second / row.throughput.tokens_per_second - 1) <= TOLERANCE
    return Verdict("reproduced" if near else "differs", f"within {TOLERANCE:.0%}" if near else f"by more than {TOLERANCE:.0%}")


def _same_device(measured: str, published: str) -> bool:
    """ "NVIDIA A100-SXM4-80GB" is a "NVIDIA A100-80G": maker, chip and memory are in its name."""
    parts = published.lower().replace("-", " ").split()
    return all(part in measured.lower() for part in parts)


def ratio_verdict(table: PublishedTable, benches: Sequence[BenchRecord]) -> tuple[str, Verdict]:
    """The ratio of requests per second, model over baseline, of two records that differ only in the model; the verdict on the claim."""
    assert table.throughput
    printed = table.throughput
    model, baseline = (next(row for row in table.rows if row.model == name) for name in (printed.model, printed.baseline))
    for ours in (bench for bench in benches if is_bench_of(model, bench)):
        for theirs in (bench for bench in benches if is_bench_of(baseline, bench)):
            if _setting(ours) != _setting(theirs):
                continue
            measured = ratio(ours, theirs)
            where = f"{ours.how}, {ours.num_requests:,} requests"
            if ours.short_answers or theirs.short_answers:
                return f"{measured:.2f}", Verdict("not comparable", f"answers ended early; {where}")
            if (ours.prompt_tokens, ours.output_tokens) != (printed.prompt_tokens, printed.output_tokens):
                lengths = f"{ours.prompt_tokens:,} tokens in, {ours.output_tokens:,} out"
                return f"{measured:.2f}", Verdict("not comparable", f"{lengths}; {where}")
            near = abs(measured / printed.ratio - 1) <= TOLERANCE
            return f"{measured:.2f}", Verdict("reproduced" if near else "differs", where)
    return "-", Verdict("not measured", "it takes bench records of both models that differ in nothing else")


def _setting(bench: BenchRecord) -> tuple[object, ...]:
    """Everything that two records must share for their ratio to depend on the models alone."""
    return (bench.engine, bench.device, bench.dtype, bench.prompt_tokens, bench.output_tokens, bench.num_requests)


def _row(row: Row | None, bench: BenchRecord | None, table: PublishedTable) -> tuple[str | Verdict, ...]:
    printed = row.throughput if row else None
    published = (f"{printed.requests_per_second:.2f}", f"{printed.tokens_per_second:,.2f}") if printed else ("-", "-")
    verdict = _verdict(row, bench, table)
    if bench is None:
        return (row.model if row else "-", *published, "-", "-", "-", "-", verdict, "-", "-")
    most = bench.roofline_rate
    share = f"{bench.total_tokens_per_second / most:.0%}" if most else "-"
    rates = (_rate(x) for x in (bench.requests_per_second, bench.total_tokens_per_second, bench.output_tokens_per_second))
    name = row.model if row and not bench.model.spec.startswith("random:") else bench.model.spec
    return (name, *published, *rates, share, verdict, bench.how, f"{bench.num_requests:,}")


def _rate(value: float) -> str:
    return f"{value:,.2f}" if value >= 1 else f"{value:.3g}"


def _provenance(bench: BenchRecord) -> str:
    words = [
        f"{bench.model.spec}: {bench.num_requests:,} requests in {bench.seconds:,.1f} s",
        f"fingerprint {bench.model.fingerprint[:19]}",
    ]
    if roofline := bench.roofline:
        words.append(f"the device's own {roofline.bandwidth_gb_s:,.1f} GB/s and {roofline.gflop_s:,.0f} GFLOP/s make the roofline")
    return ", ".join(words)


def _to_csv(found: Sequence[tuple[Row | None, BenchRecord | None]], table: PublishedTable) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row, bench in found:
        verdict = _verdict(row, bench, table)
        record: dict[str, Any] = {"model": row.model if row else "", "verdict": verdict.word, "reason": verdict.reason}
        if row and row.throughput:
            record["published_requests_per_second"] = row.throughput.requests_per_second
            record["published_tokens_per_second"] = row.throughput.tokens_per_second
        if bench:
            most, measured = bench.roofline_rate, encode(bench)
            record |= {"spec": bench.model.spec, "roofline_tokens_per_second": round(most, 2) if most else None}
            record |= {key: measured[key] for key in FIELDS if key in measured and key != "model"}
        writer.writerow(record)
    return out.getvalue()
