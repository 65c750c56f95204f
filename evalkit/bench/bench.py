"""`evalkit bench`: requests and tokens per second, counted as in the blog's third table, beside this device's roofline.

Random prompts (identical ones would let a prefix cache inflate the figure), all requests submitted at once, end of text
ignored, only generation timed. The ratio of two models is the primary figure, since rates compare on the same device only.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.bench import roofline
from evalkit.bench.config import BenchConfig
from evalkit.bench.engines import Work, open_engine
from evalkit.bench.memory import forget_peak, peak_memory
from evalkit.bench.record import BenchRecord, Roofline, Timing, of_repeats, ratio
from evalkit.bench.roofline import Device
from evalkit.codec import encode
from evalkit.errors import EvalkitError
from evalkit.files import require_folder, write_output
from evalkit.record.write import environment, model_info
from evalkit.table import Table

if TYPE_CHECKING:
    from evalkit.progress import Reporter

PUBLISHED = "qwen1.5-moe"
HEAD = (
    "model",
    "requests/s",
    "tokens/s",
    "output tokens/s",
    "seconds",
    "floor, s",
    "of the floor",
    "published requests/s",
    "published tokens/s",
)


def bench(config: BenchConfig, reporter: Reporter) -> list[BenchRecord]:
    """Time every model; returns the records, each written to its bench.json as it is done. Repeats take turns: A B, B A, A B.

    Raises EvalkitError before anything is loaded if a model is unknown or does not fit the device.
    """
    require_folder(Path(config.out))
    local = not config.engine.startswith("openai:")
    device, dtype = _resolved(config)
    floor = None
    if local:
        for model in config.models:
            if config.engine != "llama_cpp":  # its weights stay as they are stored
                _check_memory(model, device, dtype, config.prompt_tokens + config.output_tokens)
        reporter.say(f"measuring {device}: memory bandwidth, and FLOP/s in {dtype} ..")
        floor = roofline.measure(device, dtype)
        reporter.say(f"{floor.bandwidth / 1e9:.1f} GB/s, {floor.flops / 1e9:,.0f} GFLOP/s")
    found: dict[str, list[BenchRecord]] = {model: [] for model in config.models}
    for repeat in range(config.repeats):
        # back and forth, so that a machine that grows slower or faster meanwhile does so for all
        for model in config.models if repeat % 2 == 0 else config.models[::-1]:
            found[model].append(_time(config, model, floor, reporter))
            record = of_repeats(found[model])
            write_output(config.folder(model) / "bench.json", json.dumps(encode(record), indent=2, ensure_ascii=False) + "\n")
    return [of_repeats(records) for records in found.values()]


def _resolved(config: BenchConfig) -> tuple[str, str]:
    """Device and dtype, with "auto" resolved as in the native engine. Raises EvalkitError for a missing device."""
    import torch

    has_cuda = torch.cuda.is_available()
    if config.device == "cuda" and not has_cuda and not config.engine.startswith("openai:"):
        raise EvalkitError("--device cuda: no CUDA device is visible to torch; use --device cpu")
    device = config.device if config.device != "auto" else "cuda" if has_cuda else "cpu"
    default = "bfloat16" if device == "cuda" and config.engine == "native" else "float32"
    return device, config.dtype if config.dtype != "auto" else default


def _check_memory(model: str, device: str, dtype: str, tokens: int) -> None:
    """Raises EvalkitError if the weights and one request's cache cannot fit; what is unknown before loading passes."""
    from evalkit.lm.shape import shape_of_spec

    width, free = 2 if dtype in ("bfloat16", "float16") else 4, roofline.free_memory(device)
    shape = shape_of_spec(model, width)
    if shape and (needed := shape.weights * shape.width + tokens * shape.kv_per_token * shape.cached) > free:
        smaller = " --dtype bfloat16 halves it;" if width == 4 else ""
        raise EvalkitError(
            f"{model} takes {needed / 1e9:.1f} GB in {dtype}, weights and one request's cache, and {device} has {free / 1e9:.1f} GB free;"
            f"{smaller} try a smaller model (evalkit ls models), or --engine openai:URL"
        )


def _time(config: BenchConfig, model: str, device: Device | None, reporter: Reporter) -> BenchRecord:
    work = Work(config.prompt_tokens, config.output_tokens, config.num_requests, config.seed)
    with reporter.bar(f"loading {model}", 100, counted=False):
        engine = open_engine(config.model_spec(model), work.num_requests)
    engine.prepare(work)
    least = None
    if device and engine.shape:
        least = roofline.floor_seconds(engine.shape, device, work.prompt_tokens, work.output_tokens, work.num_requests)
        reporter.say(f"{model}: {work.num_requests:,} requests; this device takes at least {least:,.1f} s")
    described, where = model_info(model, config.engine, engine.lm), environment()
    is_remote = config.engine.startswith("openai:")
    place = None if is_remote or described.device == "auto" else described.device or "cpu"
    with reporter.bar(model, work.num_requests) as advance:
        counted = forget_peak(place)
        begun, start = datetime.now(UTC), time.perf_counter()
        done = engine.run(advance)
        seconds = time.perf_counter() - start
    timing = Timing(started=begun.isoformat(), seconds=seconds, peak_memory=peak_memory(place) if counted else None)
    gpu = where.gpu if described.device is not None and described.device.partition(":")[0] in ("cuda", "auto") else None
    record = BenchRecord(
        model=described,
        engine=config.engine,
        device="the server's" if is_remote else gpu or where.cpu,
        dtype=described.dtype,
        prompt_tokens=work.prompt_tokens,
        output_tokens=work.output_tokens,
        num_requests=work.num_requests,
        seed=work.seed,
        short_answers=done.short_answers,
        seconds=seconds,
        requests_per_second=work.num_requests / seconds,
        total_tokens_per_second=(done.prompt_tokens + done.output_tokens) / seconds,
        output_tokens_per_second=done.output_tokens / seconds,
        roofline=None
        if least is None or device is None
        else Roofline(
            floor_seconds=least,
            share=least / seconds,
            bandwidth_gb_s=device.bandwidth / 1e9,
            gflop_s=device.flops / 1e9,
        ),
        timings=(timing,),
        environment=where,
    )
    del engine
    gc.collect()  # free the memory for the next model
    if gpu and not is_remote:
        import torch

        torch.cuda.empty_cache()
    return record


def sparse_and_dense(records: Sequence[BenchRecord]) -> tuple[BenchRecord, BenchRecord] | None:
    """Two records, the sparse model's first if one is sparse; None for any other number of records."""
    if len(records) != 2:
        return None
    first, second = records
    return (second, first) if _is_sparse(second) and not _is_sparse(first) else (first, second)


def _is_sparse(record: BenchRecord) -> bool:
    parameters = record.model.parameters
    return parameters is not None and parameters.total != parameters.activated


def show(config: BenchConfig, records: Sequence[BenchRecord]) -> None:
    """Print the records beside the published figures, to standard output."""
    from evalkit.progress import console
    from evalkit.report.published import read_table
    from evalkit.report.sections.throughput import is_bench_of

    published = read_table(PUBLISHED)
    printed = published.throughput
    assert printed
    where, screen = records[0].environment, console()
    title = f"{config.prompt_tokens:,} tokens in, {config.output_tokens:,} out, {config.num_requests:,} requests at once"
    rows = []
    for record in records:
        row = next((row for row in published.rows if row.throughput and is_bench_of(row, record)), None)
        speed, floor = row.throughput if row else None, record.roofline
        rows.append(
            (
                record.model.spec,
                f"{record.requests_per_second:.3g}",
                f"{record.total_tokens_per_second:,.1f}",
                f"{record.output_tokens_per_second:,.1f}",
                f"{record.seconds:,.1f}",
                f"{floor.floor_seconds:,.1f}" if floor else "-",
                f"{floor.share:.0%}" if floor else "-",
                f"{speed.requests_per_second:.2f}" if speed else "-",
                f"{speed.tokens_per_second:,.2f}" if speed else "-",
            )
        )
    Table(title, HEAD, rows).show(screen)

    def say(line: str) -> None:
        screen.print(line, soft_wrap=True)

    if compared := sparse_and_dense(records):
        model, baseline = compared
        pair = [row for row in published.rows for record in records if is_bench_of(row, record)]
        claimed = f"; published: {printed.ratio:.2f}" if {row.model for row in pair} == {printed.model, printed.baseline} else ""
        say(f"ratio: {ratio(model, baseline):.2f} ({model.model.spec} over {baseline.model.spec}){claimed}")
    first = records[0]
    versions = f"python {where.python}, torch {where.torch}, {where.platform}"
    say(f"measured on {first.device}, {first.dtype}, {config.engine}; {versions}")

    say(f"published on one {printed.device}, {printed.engine}; {printed.note}")
    for record in records:
        if record.short_answers:
            say(f"{record.model.spec}: {record.short_answers:,} answers ended early: the engine ignores ignore_eos")
    say("wrote " + ", ".join(str(config.folder(record.model.spec) / "bench.json") for record in records))
