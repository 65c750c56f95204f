"""Shard I of N: which documents of each task it answers, and what its record says of the whole run.

Both are functions of the plan alone, so every machine finds the same cut without being told.
"""

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from itertools import accumulate, pairwise
from typing import Any

from evalkit import __version__
from evalkit.codec import encode
from evalkit.config import RunConfig
from evalkit.hashing import canonical_json
from evalkit.record.schema import Shard
from evalkit.runner.plan import Plan
from evalkit.runner.workload import SHORTEST_SHARED, num_shared, prompt_text, sizes
from evalkit.tasks import Generate, Request

SLACK = 20  # a cut moves by at most 1/20 of a shard's share, to where neighbours share less
FOR_PREFIX = 100  # and by at most so many characters for each one that is not computed again
OF_ONE_RUN = ("shard", "workers", "ray", "out", "name", "fresh", "quiet")  # settings that do not decide what the whole run asks


def shard_of(config: RunConfig, plans: Mapping[str, Plan]) -> tuple[Shard, dict[str, Plan]]:
    """The record of the shard that a configuration names, before its first answer, and its part of every plan."""
    assert config.part is not None
    index, of = config.part
    shard = Shard(
        index=index, of=of, finished=False, plan_sha256=plan_sha256(config, plans), evalkit=__version__, settings=settings_of(config)
    )
    owners = cut(plans, of)
    return shard, {key: _part(plan, [owner == index for owner in owners[key]]) for key, plan in plans.items()}


def settings_of(config: RunConfig) -> dict[str, Any]:
    """What was set for the whole run, by RunConfig's names."""
    given = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in OF_ONE_RUN}
    defaults = {field.name: field.default for field in fields(config)}
    return {name: encode(value) for name, value in given.items() if value not in (defaults[name], {})}


def plan_sha256(config: RunConfig, plans: Mapping[str, Plan]) -> str:
    """sha256 (hex) over the seed, the limit, and each task's protocol, data, documents and requests, in order."""
    digest = hashlib.sha256(canonical_json([config.seed, config.limit]).encode())
    for key, plan in plans.items():
        whole = [key, asdict(plan.task.protocol), plan.data.sha256, plan.n_total, len(plan.docs)]
        digest.update(canonical_json(whole).encode("utf-8", "surrogatepass"))
        for doc, requests in zip(plan.docs, plan.requests, strict=True):
            one = [doc.id, doc.group, doc.cluster, encode(doc.fields), encode(requests)]
            digest.update(canonical_json(one).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def cut(plans: Mapping[str, Plan], of: int) -> dict[str, list[int]]:
    """By task, the shard (from 1) that answers each document.

    Each task is cut by itself, and within it what is scored and what is generated: how much longer a new token takes than a scored one
    depends on the device. Documents that share a request, which is answered once, are in one shard.
    """
    owner_of: dict[Request, int] = {}  # of requests of the tasks before: another protocol may ask the same ones
    owners: dict[str, list[int]] = {}
    for key, plan in plans.items():
        found = owners[key] = [0] * len(plan.docs)
        units: dict[bool, list[list[int]]] = {}
        for unit in _units(plan.requests):
            known = next((owner_of[r] for i in unit for r in plan.requests[i] if r in owner_of), None)
            if known is None:
                units.setdefault(any(isinstance(r, Generate) for r in plan.requests[unit[0]]), []).append(unit)
            for i in unit:
                found[i] = known or 0
        for members in units.values():
            for shard, some in enumerate(_even(members, plan.requests, of), start=1):
                for i in (i for unit in some for i in unit):
                    found[i] = shard
        owner_of = {r: found[i] for i, requests in enumerate(plan.requests) for r in requests} | owner_of
    return owners


def _part(plan: Plan, mine: Sequence[bool]) -> Plan:
    chosen = [i for i, is_mine in enumerate(mine) if is_mine]
    return replace(plan, docs=[plan.docs[i] for i in chosen], requests=[plan.requests[i] for i in chosen])


def _units(requests: Sequence[Sequence[Request]]) -> list[list[int]]:
    """The documents, by their numbers, together with those that share a request with them."""
    parent = list(range(len(requests)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[Request, int] = {}
    for i, some in enumerate(requests):
        for request in some:
            parent[root(i)] = root(first.setdefault(request, i))
    units: dict[int, list[int]] = {}
    for i in range(len(requests)):
        units.setdefault(root(i), []).append(i)
    return list(units.values())


def _even(units: Sequence[list[int]], requests: Sequence[Sequence[Request]], of: int) -> list[list[list[int]]]:
    """The units in `of` parts of about equal work, in characters, cut in the prefix tree's order where neighbours share least."""
    prompts = [prompt_text(requests[unit[0]][0]) if requests[unit[0]] else "" for unit in units]
    order = sorted(range(len(units)), key=lambda i: (prompts[i], units[i]))
    distinct = list(dict.fromkeys(request for unit in units for i in unit for request in requests[i]))
    # a new token is about four characters, and about a quarter of them come to be
    work = {r: s.prompt - s.shared + s.scored + s.max_new_tokens for r, s in zip(distinct, sizes(distinct), strict=True)}
    unit_work = [max(1, sum(work[r] for r in {r for i in units[each] for r in requests[i]})) for each in order]
    shared = [num_shared(prompts[a], prompts[b]) for a, b in pairwise(order)]
    lost = [0, *(common if common >= SHORTEST_SHARED else 0 for common in shared), 0]
    ends = _ends(list(accumulate(unit_work, initial=0)), lost, of)
    return [[units[i] for i in order[start:end]] for start, end in pairwise(ends)]


def _ends(work: Sequence[int], lost: Sequence[int], of: int) -> list[int]:
    """Where the parts begin and end. `work` is that of all units before each place, `lost` what a cut there has computed again."""
    whole, scaled = work[-1], [each * of for each in work]
    ends = [0]
    for part in range(1, of):
        even = whole * part
        near = range(bisect_left(scaled, even - whole // SLACK), bisect_right(scaled, even + whole // SLACK))
        at = bisect_left(scaled, even)
        places = [i for i in near or (at - 1, at) if i >= ends[-1]] or ends[-1:]
        _, end = min((abs(scaled[i] - even) + (FOR_PREFIX * of * lost[i] if near else 0), i) for i in places)
        ends.append(end)
    return [*ends, len(work) - 1]
