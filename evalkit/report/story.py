"""The story that a report begins with: what was claimed, what holds, what does not, and why."""

from collections.abc import Iterator, Sequence

from evalkit.report.document import Block, Cause, Claim, Claims
from evalkit.report.findings import CheckedFinding
from evalkit.report.lines import Line, best
from evalkit.report.published import PublishedTable
from evalkit.report.verdict import WORDS

INCONSISTENT = "published figure inconsistent"
GROUPS = {  # title -> verdicts, in the order of the story; whatever else was measured is under UNTOLD
    "What holds": ("reproduced",),
    "What does not hold": ("differs",),
    "What cannot be right as printed": (INCONSISTENT,),
}
UNTOLD = "What cannot be told"
UNMEASURED = "not measured"


def story(table: PublishedTable, found: Sequence[Line], findings: Sequence[CheckedFinding]) -> list[Block]:
    """Paragraphs and claims on the table's cells, each by its most informative figure."""
    cells = [line for line in best(found).values() if line.cell]
    grouped: dict[str, list[Line]] = {}
    for line in cells:
        title = next((title for title, words in GROUPS.items() if line.verdict.word in words), UNTOLD)
        grouped.setdefault(UNMEASURED if line.verdict.word == UNMEASURED else title, []).append(line)
    missing = grouped.pop(UNMEASURED, [])
    blocks: list[Block] = [f"Claimed: {claimed(table, found)}", f"Found here: {summary(found)}"]
    for title in (*GROUPS, UNTOLD):
        if title in grouped:
            blocks.append(Claims(title, [_claim(line, table.name, findings) for line in grouped[title]]))
    if missing and len(missing) < len(cells):
        blocks.append(f"Not measured: {', '.join(_by_benchmark(missing, cells))}.")
    return blocks


def claimed(table: PublishedTable, found: Sequence[Line]) -> str:
    """How much the table claims, and whose claim it is."""
    cells = [line for line in best(found).values() if line.cell]
    models, benchmarks = {line.model for line in cells}, {line.task.partition("@")[0] for line in cells}
    of = f"{_count(len(models), 'model')} on {_count(len(benchmarks), 'benchmark')}"
    return f"{_count(len(cells), 'score')} of {of}. Source: {table.source}."


def summary(found: Sequence[Line]) -> str:
    """How many of the table's scores were measured, and what came out."""
    cells = [line for line in best(found).values() if line.cell]
    measured = [line.verdict.word for line in cells if line.measured]
    came_out = ", ".join(f"{count} {word}" for word in WORDS if (count := measured.count(word)))
    told = f"{len(measured) or 'none'} of {len(cells):,} measured{f': {came_out}' if came_out else ''}."
    wrong = [line for line in cells if line.verdict.word == INCONSISTENT]
    if wrong:
        also = f", {some:,} of them measured all the same" if (some := sum(line.measured is not None for line in wrong)) else ""
        told += f" {len(wrong):,} cannot be right as printed{also}."
    return told


def _claim(line: Line, table: str, findings: Sequence[CheckedFinding]) -> Claim:
    assert line.cell
    title, causes = f"{line.title}, {line.model}", causes_of(line, table, findings)
    if not line.measured:
        return Claim(title, line.published, line.cell.cited, line.verdict, causes=causes)
    figures = (line.figure, line.interval, line.difference, line.how)
    return Claim(title, line.published, line.cell.cited, line.verdict, *figures, causes)


def causes_of(line: Line, table: str, findings: Sequence[CheckedFinding]) -> list[Cause]:
    """The causes that were tested on a line's cell."""
    return [
        Cause(each.finding.cause, each.effect, each.finding.conclusion)
        for each in findings
        if line.cell and each.is_of(table, line.model, line.task)
    ]


def _by_benchmark(missing: Sequence[Line], cells: Sequence[Line]) -> Iterator[str]:
    """ "MMLU of 3 of 5 models"."""
    for title in dict.fromkeys(line.title for line in missing):
        lacking, of = (sum(line.title == title for line in among) for among in (missing, cells))
        yield f"{title} of {'' if lacking == of else f'{lacking:,} of '}{_count(of, 'model')}"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
