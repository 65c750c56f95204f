"""gate.toml: what it says, and every file that is refused, in one line that names the file's line and the fix."""

import hashlib
import os
import re
import threading
from dataclasses import fields
from pathlib import Path

import pytest

from evalkit.comparison.policy import Allowed, Policy, RuleRow, Share, read_policy
from evalkit.errors import EvalkitError

RULE = '[[rule]]\ntask = "mmlu"\nmargin = 0.01\n'


def read(folder: Path, text: str) -> Policy:
    (folder / "gate.toml").write_text(text)
    return read_policy(str(folder / "gate.toml"))


def test_a_policy_is_read_once(tmp_path: Path) -> None:
    """Its hash is of what was understood, also where it comes through a pipe and cannot be read again."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(RULE,))
    writer.start()
    found = read_policy(str(pipe))
    writer.join()
    assert found.raw == RULE.encode()
    assert found.sha256 == hashlib.sha256(RULE.encode()).hexdigest()
    assert [rule.task for rule in found.rules] == ["mmlu"]


def test_everything_that_a_policy_can_say(tmp_path: Path) -> None:
    text = """
# reviewed by the model team
[default]
margin = 0.01
alpha = 0.02
allowed.truncated = 0
allowed.empty = 3

[[rule]]
task = "mmlu"
min_documents = 14042

[[rule]]
task = "gsm8k@qwen"
metric = "exact_match"
drop = 0.05
tier = "warning"
alpha = 0.1
allow_small_margin = true
cluster = "question"
missing = "ignore"
allowed.empty = {share = 0.01}
"""
    policy = read(tmp_path, text)
    first, second = policy.rules
    assert (first.task, first.metric, first.margin, first.drop, first.tier, first.alpha) == ("mmlu", None, 0.01, None, "blocking", 0.02)
    assert (first.min_documents, first.allow_small_margin, first.cluster, first.missing) == (14042, False, None, "fail")
    assert first.allowed == {"truncated": 0, "empty": 3}
    assert first.place == f"{tmp_path / 'gate.toml'}:9"
    assert (second.task, second.metric, second.margin, second.drop) == ("gsm8k@qwen", "exact_match", None, 0.05)
    assert (second.tier, second.alpha, second.min_documents, second.cluster) == ("warning", 0.1, 1, "question")
    assert (second.allow_small_margin, second.missing) == (True, "ignore")
    assert second.allowed == {"truncated": 0, "empty": Share(share=0.01)}
    assert policy.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert policy.values["rule"][0]["min_documents"] == 14042


def test_a_rule_overrides_the_default_in_either_unit(tmp_path: Path) -> None:
    (by_margin,) = read(tmp_path, '[default]\ndrop = 0.02\n[[rule]]\ntask = "mmlu"\nmargin = 0.01\n').rules
    assert (by_margin.margin, by_margin.drop, by_margin.margin_of(0.5)) == (0.01, None, 0.01)
    (by_drop,) = read(tmp_path, '[default]\nmargin = 0.02\n[[rule]]\ntask = "mmlu"\ndrop = 0.04\n').rules
    assert (by_drop.margin, by_drop.drop, by_drop.margin_of(0.5)) == (None, 0.04, 0.02)
    with pytest.raises(EvalkitError, match=r"gate\.toml:5: mmlu has 0 in the base, and drop = 0\.04 of that is 0, .*; give a margin"):
        by_drop.margin_of(0.0)


@pytest.mark.parametrize("base", [2.0, 5.31, 20_000.0])
def test_a_drop_that_is_too_large_for_a_rating(base: float, tmp_path: Path) -> None:
    """A margin of 1 or more is refused, so the advice is a drop that is not."""
    text = '[default]\ndrop = {}\n[[rule]]\ntask = "mt_bench"\n'
    (rule,) = read(tmp_path, text.format(0.5)).rules
    with pytest.raises(EvalkitError, match=r"gate\.toml:2: mt_bench has .* not between 1e-09 and 1; give drop = \S+ or less$") as caught:
        rule.margin_of(base)
    advised = str(caught.value).split()[-3]
    (rule,) = read(tmp_path, text.format(advised)).rules
    assert 0.8 < rule.margin_of(base) < 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "it has no [[rule]], so nothing would be gated"),
        ("[default]\nmargin = 0.01\n", "it has no [[rule]]"),
        ("rule = []\n", ":1: rule is empty, so nothing would be gated"),
        ("rule = 3\n", ":1: rule is 3, expected a list of an object"),
        ('[rule]\ntask = "mmlu"\n', ':1: rule is {"task": "mmlu"}, expected a list'),
        ('[[rule]\ntask = "mmlu"\n', "not valid TOML"),
        (RULE + "margin = 0.02\n", "not valid TOML"),
        ("[[rule]]\nmargin = 0.01\n", ":1: rule.0.task is missing"),
        ('[[rule]]\ntask = "mmlu"\n', ":1: mmlu has neither margin nor drop; add margin = 0.01"),
        (RULE + "drop = 0.02\n", ":4: rule.0.drop stands beside a margin: give one of them"),
        (f"[default]\nmargin = 0.1\ndrop = 0.1\n{RULE}", ":3: default.drop stands beside a margin"),
        (RULE.replace("0.01", "0"), ":3: rule.0.margin is 0, expected a drop in the metric's unit"),
        (RULE.replace("0.01", "1.0"), ":3: rule.0.margin is 1.0, expected a drop"),
        (RULE.replace("0.01", "-0.01"), ":3: rule.0.margin is -0.01, expected a drop"),
        (RULE.replace("0.01", "nan"), ":3: rule.0.margin is NaN, expected a number that is finite"),
        (RULE.replace("0.01", '"1%"'), ':3: rule.0.margin is "1%", expected a number;'),
        (RULE.replace("0.01", "true"), ":3: rule.0.margin is true, expected a number;"),
        (RULE.replace("0.01", "2026-01-01"), ':3: rule.0.margin is "2026-01-01", expected a number;'),
        ('[[rule]]\ntask = "mmlu"\ndrop = 1.5\n', ":3: rule.0.drop is 1.5, expected a share of the base's score"),
        (RULE.replace('"mmlu"', '""'), ':2: rule.0.task is "", expected a name'),
        (RULE + 'metric = ""\n', ':4: rule.0.metric is "", expected a name'),
        (RULE + 'cluster = ""\n', ':4: rule.0.cluster is "", expected a name'),
        (RULE + "alpha = 0\n", ":4: rule.0.alpha is 0, expected from 0.001 to 0.2"),
        (RULE + "alpha = 0.5\n", ":4: rule.0.alpha is 0.5, expected from 0.001 to 0.2"),
        (RULE + "min_documents = 0\n", ":4: rule.0.min_documents is 0, expected at least 1"),
        (RULE + "min_documents = 10.5\n", ":4: rule.0.min_documents is 10.5, expected a whole number;"),
        (RULE + 'tier = "blocker"\n', ':4: rule.0.tier is "blocker", expected "blocking" or "warning";'),
        (RULE + 'missing = "skip"\n', ':4: rule.0.missing is "skip", expected "fail" or "ignore" or "error";'),
        (RULE + "allow_small_margin = 1\n", ":4: rule.0.allow_small_margin is 1, expected true or false;"),
        (RULE + "allowed.truncated = -1\n", ":4: rule.0.allowed.truncated is -1, expected a number of documents, 0 or more"),
        (RULE + "allowed.truncated = 0.01\n", ":4: rule.0.allowed.truncated is 0.01, expected a whole number or an object;"),
        (RULE + "allowed.truncated = {share = 1.5}\n", ":4: rule.0.allowed.truncated.share is 1.5, expected a share of the documents"),
        (RULE + "allowed.truncated = {}\n", ":4: rule.0.allowed.truncated"),
        (RULE + "allowed.truncatd = 1\n", ":4: rule.0.allowed.truncatd is no key that this evalkit knows (did you mean truncated?)"),
        (RULE + "margn = 0.01\n", ":4: rule.0.margn is no key that this evalkit knows (did you mean margin?)"),
        ("margin = 0.01\n" + RULE, ":1: margin is no key that this evalkit knows"),
        (f'[default]\ntask = "mmlu"\n{RULE}', ":2: default.task is no key that this evalkit knows"),
        (RULE + RULE, ":4: mmlu has a rule already, at"),
        (RULE + 'metric = "acc"\n' + RULE + 'metric = "acc"\n', ":5: mmlu by acc has a rule already, at"),
    ],
)
def test_files_that_are_refused(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(EvalkitError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert complaint in message
    assert message.startswith((str(tmp_path / "gate.toml"), f"cannot read {tmp_path / 'gate.toml'}"))
    assert "\n" not in message
    assert "null" not in message  # which TOML does not have
    assert caught.value.exit_code == 2


def test_the_policy_in_the_docs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "ci.md").read_text()
    block = "\n".join(re.findall(r"```toml\n(.+?)```", page, re.DOTALL))
    tiers = {rule.task: rule.tier for rule in read(tmp_path, block).rules}
    assert tiers == {
        "mmlu": "blocking",
        "gsm8k": "blocking",
        "humaneval": "warning",
    }
    found = read(tmp_path, block)
    assert [(limit.bound, limit.tier) for limit in (found.throughput, found.memory) if limit] == [(0.05, "blocking"), (0.1, "warning")]
    named = set(re.findall(r"`([a-z_]+)`", "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))))
    assert {field.name for field in fields(RuleRow)} - {"allowed"} <= named
    assert all(f"`{field.name}`" in page for field in fields(Allowed))


def test_a_policy_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EvalkitError, match=r"cannot read .*gate\.toml: No such file"):
        read_policy(str(tmp_path / "gate.toml"))
    with pytest.raises(EvalkitError, match=r"cannot read .*: Is a directory"):
        read_policy(str(tmp_path))
