"""Many attempts, killed and failing, held against a run that nothing disturbed."""

import errno
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from attempts import RUNS, Bench, Ended, Fault, Tally, results

SMALLEST = 16 << 10  # bytes of a file system


class Trial:
    """`run` prints what happened and returns the exit code: 0 where nothing was lost, doubled or wrong."""

    def __init__(self, root: Path, data: str, seed: int | None, can_mount: bool):
        self.root, self.can_mount = root, can_mount
        self.seed = random.SystemRandom().randrange(2**32) if seed is None else seed
        self.random = random.Random(self.seed)
        self.bench = Bench(root, data)
        self.problems: list[str] = []

    def run(self, kills: int, faults: int) -> int:
        started = time.monotonic()
        self._undisturbed()
        figures = {"seed": self.seed, "requests": self.total, "undisturbed seconds": round(self.seconds, 2)}
        figures |= self._kills(kills) if kills else {}
        figures |= self._faults(faults) if faults else {}
        for problem in self.problems:
            print(f"WRONG: {problem}", file=sys.stderr)
        print(json.dumps(figures | {"seconds": round(time.monotonic() - started), "problems": len(self.problems)}))
        return 1 if self.problems else 0

    def _undisturbed(self) -> None:
        whole, tally, ends = self.root / "whole", Tally(), []
        for _ in range(3):
            shutil.rmtree(whole, ignore_errors=True)
            ends.append(self.bench.attempt(whole, tally))
            if ends[-1].code or ends[-1].lines:
                raise SystemExit(f"the undisturbed run ended with {ends[-1].code}: {' '.join(ends[-1].lines)}")
        self.seconds, self.calls = min(end.seconds for end in ends), max(end.calls for end in ends)
        self.reference, self.total = results(whole), len(self.bench.answers(whole))
        self.problems += tally.problems
        if tally.answered != 3 * self.total:
            self.problems.append(f"{tally.answered} answers were computed for 3 x {self.total} requests")
        self.bytes = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
        print(f"undisturbed: {self.total} requests, {self.seconds:.2f} s, {self.calls} calls change its {self.bytes:,} bytes", flush=True)

    def _kills(self, wanted: int) -> dict[str, object]:
        """Run after run, each killed until it gets to its end, and once more when it is there.

        Half of the kills come at random times, half at calls that change a file, which a busy machine does not put off.
        """
        tally, killed, runs, early = Tally(), 0, 0, 0
        while killed < wanted:
            out, finished = self._fresh("killed"), False
            while not finished and killed < wanted:
                if self.bench.shim and self.random.random() < 0.5:
                    end = self.bench.attempt(out, tally, fault=Fault(self.random.randint(1, self.calls), 0))
                else:
                    end = self.bench.attempt(out, tally, kill_after=self.random.uniform(0, self.seconds))
                killed += end.code == -9
                early += end.code == -9 and not end.asked
                finished = end.code == 0
                self._expect(end, {-9, 0}, out, "killed")
            if finished and killed < wanted:
                end = self.bench.attempt(out, tally, kill_after=self.random.uniform(0, self.seconds / 2))
                killed += end.code == -9
                self._expect(end, {-9, 0}, out, "killed when it was complete")
            self._finish(out, tally, "after kills")
            runs += 1
            print(f"{killed} kills, {runs} runs", flush=True)
        return self._account("kills", killed, runs, tally) | {"kills with no answer computed": early}

    def _faults(self, wanted: int) -> dict[str, object]:
        """A fresh run each: calls that fail, and file systems that are too small (a fifth, where mounting is allowed)."""
        tally, kinds, codes = Tally(), Counter[str](), Counter[str]()
        small = wanted // 5 if self.can_mount else 0
        if not self.can_mount:
            print("no small file systems: mounting is not allowed here")
        if not self.bench.shim:
            raise SystemExit("no failing calls without a C compiler: install cc")
        done = runs = 0
        while done < wanted:
            if done < small:
                code = self._too_small(tally)
                kind = "file system full"
            else:
                code, kind = self._failing_call(tally)
            runs += 1
            if not kind:  # the call never came
                continue
            done += 1
            kinds[kind] += 1
            codes[f"exit code {code}"] += 1
            print(f"{done} faults: {dict(codes)}", flush=True)
        return self._account("faults", done, runs, tally) | {"kinds": dict(kinds), "faults' exit codes": dict(codes)}

    def _failing_call(self, tally: Tally) -> tuple[int, str]:
        out, resumed, lasting = self._fresh("failing"), self.random.random() < 0.3, self.random.random() < 0.5
        if resumed:
            self._expect(self.bench.attempt(out, tally, kill_after=self.random.uniform(0, self.seconds)), {-9, 0}, out, "killed")
        fault = Fault(self.random.randint(1, self.calls), self.random.choice((errno.ENOSPC, errno.EIO)), lasting)
        end = self.bench.attempt(out, tally, fault=fault)
        self._expect(end, {0, 2, 4}, out, f"at {end.failed[:1]}")
        self._finish(out, tally, f"after {end.failed[:1]} and exit code {end.code}")
        return end.code, " ".join(end.failed[0].split()[:2]) if end.failed else ""

    def _too_small(self, tally: Tally) -> int:
        out, size = self._fresh("small"), self.random.randint(SMALLEST, self.bytes)
        out.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(out)], check=True)
        try:
            end = self.bench.attempt(out, tally)
            self._expect(end, {0, 2, 4}, out, f"on {size} bytes")
            subprocess.run(["mount", "-o", "remount,size=64m", str(out)], check=True)
            self._finish(out, tally, f"after {size} bytes were too few")
        finally:
            subprocess.run(["umount", str(out)], check=True)
        return end.code

    def _fresh(self, name: str) -> Path:
        shutil.rmtree(self.root / name, ignore_errors=True)
        return self.root / name

    def _finish(self, out: Path, tally: Tally, when: str) -> None:
        end = self.bench.attempt(out, tally)
        self._expect(end, {0}, out, when)

    def _expect(self, end: Ended, codes: set[int], out: Path, when: str) -> None:
        """An exit code that may be, a line where there is something to say, and no run.json that says what isn't so."""
        if end.code not in codes:
            self.problems.append(f"{when}: exit code {end.code}, {end.lines}")
        if end.code == 2 and end.lost:
            self.problems.append(f"{when}: exit code 2, wrong use, but {end.lost} answers were lost")
        if end.code in (2, 4) and (len(end.lines) != 1 or not end.lines[0].startswith("evalkit: ")):
            self.problems.append(f"{when}: not one line: {end.lines}")
        if end.code == 0 and (end.lines or results(out) != self.reference):
            self.problems.append(f"{when}: not the same bytes; {end.lines}")
        for name in RUNS:
            if (file := out / name / "run.json").exists() and json.loads(file.read_text())["status"] == "complete":
                found = results(out)
                if any(found.get(path) != self.reference[path] for path in self.reference if path.startswith(f"{name}/")):
                    self.problems.append(f"{when}: {name}/run.json says complete, and samples or completions are not")
        if end.lines and end.code:
            print(f"  {when}: {end.code}: {end.lines[-1][:230]}", flush=True)

    def _account(self, what: str, count: int, runs: int, tally: Tally) -> dict[str, object]:
        """answered == total + what was computed and in no journal when its attempt ended."""
        self.problems += tally.problems
        if tally.answered != runs * self.total + tally.lost:
            self.problems.append(f"{what}: {tally.answered} answered, not {runs} x {self.total} + {tally.lost}")
        print(
            f"{count} {what} over {runs} runs of {self.total} requests: {tally.answered} answers computed"
            f" = {runs * self.total} + {tally.lost} that were in flight ({tally.most_lost} at most in one attempt)"
        )
        return {what: count, f"{what}' runs": runs, f"{what}' recomputed": tally.lost, f"{what}' most in flight": tally.most_lost}
