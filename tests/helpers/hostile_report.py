"""A report's inputs whose names are markup: shared by the tests of its formats and of its files."""

from dataclasses import replace

from report_runs import bench, entry, run

from evalkit.record.schema import Metrics, Parameters
from evalkit.report.inputs import Inputs
from evalkit.report.published import read_table
from evalkit.stats.estimate import Estimate

HOSTILE = '<script>alert("1")</script> & \\input{x} $\\frac$ % # _ ^ ~ | [a](b) **b** `c`'


def subjects(*values: float) -> dict[str, Metrics]:
    names = ("astronomy", "anatomy", "philosophy", "econometrics", "virology")
    return {name: {"acc": Estimate(value, 0.1, (0.0, 1.0), 9)} for name, value in zip(names, values, strict=True)}


def hostile_inputs() -> Inputs:
    """Runs of a model of the table, of another, with hostile names; bench records of the two models of the claim."""
    moe = run(
        "Qwen/Qwen1.5-MoE-A2.7B", mmlu=entry(0.62, subjects=subjects(0.1, 0.4, 0.5, 0.6, 0.99)), gsm8k=entry(0.6, n=1319, n_total=1319)
    )
    other = run(HOSTILE, HOSTILE, mmlu=entry(0.4, subjects=subjects(0, 0.3, 1, 0.6, 0.7)))
    other = replace(other, model=replace(other.model, parameters=Parameters(total=500_000_000, activated=500_000_000)))
    benches = (bench("Qwen/Qwen1.5-MoE-A2.7B", 2.0), bench("Qwen/Qwen1.5-7B", 1.15), bench(HOSTILE, 3.0))
    return Inputs(read_table("qwen1.5-moe"), (moe, other), benches)
