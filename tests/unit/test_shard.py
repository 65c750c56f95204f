"""How a run is cut into shards: evenly, along shared prefixes, and by the plan alone."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from evalkit.config import RunConfig
from evalkit.data.sources import SampleSource
from evalkit.errors import EvalkitError
from evalkit.record.schema import DataInfo, Environment
from evalkit.runner.plan import Plan, plan
from evalkit.runner.shard import cut, plan_sha256, settings_of, shard_of
from evalkit.runner.shard_set import earliest, environment_of
from evalkit.tasks import Doc, Generate, Loglikelihood, Request
from evalkit.tasks.registry import resolve


def planned(requests: Sequence[Sequence[Request]]) -> Plan:
    docs = [Doc(str(i), "all", {"i": i}) for i in range(len(requests))]
    return Plan(resolve("mmlu"), docs, requests, len(docs), DataInfo(source="dir", sha256="0"))


def scored(context: str) -> Loglikelihood:
    return Loglikelihood(context, (" A", " B"))


def subjects(sizes: Sequence[int]) -> list[list[Request]]:
    """Subjects of so many questions, each with a prefix of its own."""
    return [
        [scored(f"subject {s:03} " + "shot " * 200 + f"question {i:04}" + " word" * 60)]
        for s, size in enumerate(sizes)
        for i in range(size)
    ]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/0", "a/b", "1", "1/2/3", "", "-1/2", "01/2", "1 /2", "1.0/2", "¹/2"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(EvalkitError, match="give I/N"):
        RunConfig(("mmlu",), shard=text)


def test_a_shard_has_a_folder_of_its_own() -> None:
    whole = RunConfig(("mmlu",))
    names = {RunConfig(("mmlu",), shard=shard).run_name for shard in ("1/2", "2/2", "1/3")}
    assert len(names | {whole.run_name}) == 4
    assert all(name.startswith(whole.run_name) for name in names)


def test_subjects_stay_whole_where_balance_allows() -> None:
    requests = subjects([40, 41, 39, 40, 40, 40])
    owners = cut({"mmlu": planned(requests)}, 3)["mmlu"]
    assert owners == [1] * 81 + [2] * 79 + [3] * 80


def test_a_large_subject_is_split_evenly() -> None:
    owners = cut({"mmlu": planned(subjects([300]))}, 4)["mmlu"]
    assert all(67 <= owners.count(shard) <= 83 for shard in range(1, 5))  # each cut within 1/20 of a share
    assert owners == sorted(owners)  # of neighbours in the prefix tree


def test_documents_that_share_a_request_stay_together() -> None:
    """Answered by two shards, one request could get two answers."""
    requests: list[list[Request]] = [[scored(f"{i:04}"), scored("zz the same" if i % 7 == 0 else f"zz {i}")] for i in range(70)]
    owners = cut({"mmlu": planned(requests)}, 5)["mmlu"]
    assert len({owners[i] for i in range(0, 70, 7)}) == 1
    assert set(owners) == {1, 2, 3, 4, 5}


def test_another_protocol_that_asks_the_same_is_cut_the_same() -> None:
    requests = subjects([30, 30])
    owners = cut({"a": planned(requests), "b": planned([*requests[5:], [scored("new")]])}, 4)
    assert owners["b"][:-1] == owners["a"][5:]


def test_what_is_generated_is_cut_by_itself() -> None:
    """A new token takes longer than a scored one, and how much longer depends on the device."""
    answers: list[list[Request]] = [[Generate(f"question {i}", (), 1000)] for i in range(8)]
    owners = cut({"mmlu": planned([*subjects([80]), *answers])}, 4)["mmlu"]
    assert [owners[80:].count(shard) for shard in (1, 2, 3, 4)] == [2, 2, 2, 2]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_more_shards_than_documents(count: int) -> None:
    owners = cut({"mmlu": planned(subjects([1] * count))}, 5)["mmlu"]
    assert len(owners) == len(set(owners)) == count
    assert set(owners) <= {1, 2, 3, 4, 5}


@pytest.mark.parametrize("of", [2, 5, 57])
def test_the_sample_is_cut_whole(of: int) -> None:
    plans = {name: plan(resolve(name), SampleSource(), None) for name in ("mmlu", "gsm8k", "mt_bench", "humaneval")}
    configs = [RunConfig(tuple(plans), shard=f"{index}/{of}") for index in range(1, of + 1)]
    found = [shard_of(config, plans) for config in configs]
    assert len({shard.plan_sha256 for shard, _ in found}) == 1
    for name, whole in plans.items():
        ids = [doc.id for _, parts in found for doc in parts[name].docs]
        assert sorted(ids) == sorted(doc.id for doc in whole.docs)
        places = {doc.id: place for place, doc in enumerate(whole.docs)}
        for _, parts in found:
            order = [places[doc.id] for doc in parts[name].docs]
            assert order == sorted(order)
            assert [whole.requests[place] for place in order] == list(parts[name].requests)


def test_the_plan_is_what_is_asked() -> None:
    config, plans = RunConfig(("mmlu",), data="sample"), {"mmlu": plan(resolve("mmlu"), SampleSource(), None)}
    whole = plans["mmlu"]
    same = plan_sha256(replace(config, device="cpu", shard="1/2", out="elsewhere", data="hub"), plans)
    assert same == plan_sha256(config, plans)
    others = [
        plan_sha256(replace(config, seed=1), plans),
        plan_sha256(replace(config, limit=140), plans),
        plan_sha256(config, {"mmlu": plan(resolve("mmlu@cloze"), SampleSource(), None)}),
        plan_sha256(config, {"mmlu": replace(whole, docs=whole.docs[1:], requests=whole.requests[1:])}),
        plan_sha256(config, {"mmlu": replace(whole, docs=[replace(whole.docs[0], fields={}), *whole.docs[1:]])}),
        plan_sha256(config, {"mmlu": replace(whole, requests=[whole.requests[1], *whole.requests[1:]])}),
    ]
    assert len({same, *others}) == 7


def test_what_is_recorded_makes_the_configuration_again() -> None:
    given = {"model": "m", "temperature": 0.8, "repeats": 2, "chat_template_args": {"a": True}}
    config = RunConfig(("humaneval",), **given, shard="1/2", name="n", quiet=True)
    assert settings_of(config) == {"tasks": ["humaneval"], **given}


def test_environments_that_differ_are_all_named() -> None:
    one = Environment(python="3.11.9", torch="2.13", platform="Linux", cpu="Intel", cores=8, gpu=None, git="abc")
    other = replace(one, cpu="AMD", cores=64, gpu="H100")
    assert environment_of([one, one]) == one
    assert environment_of([one, other, one]) == replace(one, cpu="Intel, AMD", cores=None, gpu="none, H100")


def test_the_earliest_start_knows_time_zones() -> None:
    assert earliest(["2026-01-01T12:00:00+02:00", "2026-01-01T11:00:00+00:00"]) == "2026-01-01T12:00:00+02:00"
