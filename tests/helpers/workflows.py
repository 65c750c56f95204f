"""Runs a workflow of docs/workflows as it stands: its `run:` steps by bash in a clean folder, caches and artifacts as folders.

What a hosted runner brings is stubbed and recorded: `pip`, `git` and `gh` are scripts on the PATH. Of GitHub's expressions only those
that our workflows use are understood, and any other fails the test.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
WORKFLOWS = DOCS / "workflows"
CONTEXT = {
    "github.repository": "team/model",
    "github.event.pull_request.head.repo.full_name": "team/model",
    "github.event.pull_request.number": "7",
    "github.token": "secret",
}
# comments of an issue, as files that hold author and body; gh's own --jq needs no jq
GH = """#!{python}
import json, pathlib, sys
arguments, store = sys.argv[1:], pathlib.Path({store!r})
assert arguments[0] == "api", arguments
method = arguments[arguments.index("--method") + 1] if "--method" in arguments else "GET"
body = next((pathlib.Path(a[len("body=@"):]).read_text() for a in arguments if a.startswith("body=@")), None)
url = next(a for a in arguments if a.startswith("repos/"))
if method == "GET":
    assert 'select(.user.login == "github-actions[bot]"' in arguments[arguments.index("--jq") + 1], arguments
    for file in sorted(store.glob("*.json")):
        comment = json.loads(file.read_text())
        if comment["user"] == "github-actions[bot]" and comment["body"].startswith("<!-- evalkit gate -->"):
            print(file.stem)
elif method == "POST":
    assert url == "repos/team/model/issues/7/comments", url
    (store / f"{{100 + len(list(store.glob('*.json')))}}.json").write_text(json.dumps({{"user": "github-actions[bot]", "body": body}}))
else:
    assert method == "PATCH" and url.startswith("repos/team/model/issues/comments/"), (method, url)
    (store / (url.rpartition("/")[2] + ".json")).write_text(json.dumps({{"user": "github-actions[bot]", "body": body}}))
"""
PIP = '#!{python}\nimport sys\nopen({log!r}, "a").write(" ".join(sys.argv[1:]) + "\\n")\n'
GIT = "#!{python}\nimport pathlib, sys\npathlib.Path(sys.argv[-1]).mkdir()\n"


def parsed(name: str) -> dict[str, Any]:
    """The YAML of a workflow, by its file's name."""
    import yaml

    found = yaml.safe_load((WORKFLOWS / name).read_text())
    assert isinstance(found, dict)
    return found


@dataclass
class Runner:
    """A service's side: what outlives a job. Each job gets a folder of its own, named by its number."""

    root: Path
    jobs: int = 0
    outcomes: dict[str, str] = field(default_factory=dict)  # of the last job's steps, by name or id
    output: dict[str, str] = field(default_factory=dict)  # of its `run:` steps
    matrix: dict[str, str] = field(default_factory=dict)  # the last job's values

    def __post_init__(self) -> None:
        for name in ("cache", "artifacts", "comments", "bin"):
            (self.root / name).mkdir(parents=True)
        stubs = {"pip": PIP, "gh": GH, "git": GIT}
        for name, text in stubs.items():
            stub = self.root / "bin" / name
            stub.write_text(text.format(python=sys.executable, log=str(self.root / "pip.log"), store=str(self.root / "comments")))
            stub.chmod(0o755)

    @property
    def workspace(self) -> Path:
        return self.root / f"job{self.jobs}"

    @property
    def comments(self) -> list[str]:
        return [json.loads(file.read_text())["body"] for file in sorted((self.root / "comments").glob("*.json"))]

    def github(self, name: str, job_name: str = "", matrix: Mapping[str, str] = MappingProxyType({}), **settings: str) -> bool:
        """One job of a GitHub workflow, by its name if there are several, with these settings in place of its `env:`. Did it succeed?"""
        workflow = parsed(name)
        job = workflow["jobs"][job_name] if job_name else next(iter(workflow["jobs"].values()))
        assert job_name or len(workflow["jobs"]) == 1, "which job?"
        self._begin()
        self.matrix = dict(matrix)
        environment = {key: str(value) for key, value in workflow["env"].items()} | settings
        environment = {key: self._filled(value, {}) for key, value in environment.items()}
        ok = True
        for step in job["steps"]:
            assert not step.keys() - {"name", "id", "if", "uses", "with", "run", "env"}, step
            title = step.get("id") or step.get("name") or step["uses"]
            if not self._holds(str(step.get("if", "success()")), ok, environment):
                self.outcomes[title] = "skipped"
                continue
            if "uses" in step:
                inputs = {key: self._filled(str(value), environment) for key, value in step.get("with", {}).items()}
                self._action(step["uses"], step.get("id", ""), inputs)
                self.outcomes[title] = "success"
                continue
            own = {key: self._filled(str(value), environment) for key, value in step.get("env", {}).items()}
            done = self._run(self._filled(step["run"], environment), {**environment, **own})
            self.outcomes[title] = "success" if done == 0 else "failure"
            ok = ok and done == 0
        return ok

    def gitlab(self, name: str, job: str, **settings: str) -> int:
        """One job of a GitLab pipeline. Returns the exit code of its script."""
        pipeline = parsed(name)
        described = pipeline[pipeline[job]["extends"]] | pipeline[job]
        self._begin()
        environment = {key: str(value) for key, value in pipeline["variables"].items()} | settings
        environment = {key: value.replace("$CI_PROJECT_DIR", str(self.workspace)) for key, value in environment.items()}
        cache, artifacts = described["cache"], described["artifacts"]
        key = re.sub(r"\$(\w+)", lambda found: environment[found[1]], cache["key"])
        store = self.root / "cache" / _safe(key)
        if store.exists():
            shutil.copytree(store, self.workspace, dirs_exist_ok=True)
        script = "\n".join([*described["before_script"], *described["script"]])
        code = self._run(script, environment)
        self._run("\n".join(described.get("after_script", [])), environment)  # its exit code counts for nothing
        for what, folder, paths in ((cache, store, cache["paths"]), (artifacts, self.root / "artifacts" / job, artifacts["paths"])):
            if what["when"] == "always" or code == 0:
                for path in paths:
                    if (self.workspace / path).exists():
                        shutil.copytree(self.workspace / path, folder / path, dirs_exist_ok=True)
        assert (self.workspace / artifacts["reports"]["junit"]).exists()
        return code

    def _begin(self) -> None:
        self.jobs += 1
        self.outcomes, self.output = {}, {}
        self.workspace.mkdir()
        shutil.copy(WORKFLOWS / "gate.toml", self.workspace)  # the repository that is checked out

    def _run(self, script: str, environment: Mapping[str, str]) -> int:
        path = f"{self.root / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        whole = {**os.environ, **environment, "PATH": path, "GITHUB_ACTIONS": "true"}
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        done = subprocess.run(command, cwd=self.workspace, env=whole, capture_output=True, text=True)
        self.output[script] = done.stdout + done.stderr
        return done.returncode

    def _action(self, uses: str, step: str, inputs: dict[str, str]) -> None:
        action = uses.partition("@")[0]
        if action == "actions/checkout":
            if "path" in inputs:
                (self.workspace / inputs["path"]).mkdir()
                shutil.copy(DOCS.parent / "constraints.txt", self.workspace / inputs["path"])
        elif action == "actions/setup-python":
            assert (self.workspace / inputs["cache-dependency-path"]).exists()
        elif action == "actions/cache/restore":
            store = self.root / "cache" / _safe(inputs["key"])
            if store.exists():
                shutil.copytree(store, self.workspace / inputs["path"])
            self.outcomes[f"steps.{step}.outputs.cache-hit"] = "true" if store.exists() else ""
            self.outcomes[f"steps.{step}.outputs.cache-primary-key"] = inputs["key"]
        elif action == "actions/cache/save":
            store = self.root / "cache" / _safe(inputs["key"])
            assert not store.exists(), "a key that is taken is not saved again"
            if (self.workspace / inputs["path"]).exists():
                shutil.copytree(self.workspace / inputs["path"], store)
        elif action == "actions/download-artifact":
            assert inputs["merge-multiple"] == "True", inputs
            for artifact in sorted((self.root / "artifacts").glob(inputs["pattern"])):
                shutil.copytree(artifact, self.workspace / inputs["path"], dirs_exist_ok=True)
        elif action == "actions/upload-artifact":
            source, into = self.workspace / inputs["path"], self.root / "artifacts" / inputs["name"]
            into.mkdir(exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, into, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy(source, into)
        else:
            raise AssertionError(f"what does {uses} do?")

    def _filled(self, text: str, environment: Mapping[str, str]) -> str:
        return re.sub(r"\$\{\{ (.+?) \}\}", lambda found: self._value(found[1], environment), text)

    def _value(self, expression: str, environment: Mapping[str, str]) -> str:
        if found := re.fullmatch(r"hashFiles\('(.+)'\)", expression):
            return hashlib.sha256((self.workspace / found[1]).read_bytes()).hexdigest()[:8]
        if expression.startswith("env."):
            return environment[expression.removeprefix("env.")]
        if expression.startswith("matrix."):
            return self.matrix[expression.removeprefix("matrix.")]
        if expression == "github.workspace":
            return str(self.workspace)
        if found := re.fullmatch(r"steps\.(\w+)\.outcome", expression):
            return self.outcomes.get(found[1], "skipped")
        return (CONTEXT | self.outcomes)[expression]

    def _holds(self, condition: str, ok: bool, environment: Mapping[str, str]) -> bool:
        """Like GitHub, a condition without a status function holds after successes alone."""
        words = {"always()": True, "success()": ok, "failure()": not ok}

        def term(text: str) -> bool:
            if text in words:
                return words[text]
            left, sign, right = re.fullmatch(r"(.+?) ([!=]=) (.+)", text).groups()  # type: ignore[union-attr]
            values = [each[1:-1] if each.startswith("'") else self._value(each, environment) for each in (left, right)]
            return (values[0] == values[1]) == (sign == "==")

        terms = condition.split(" && ")
        return all(map(term, terms)) and (ok or any(each in words for each in terms))


def _safe(key: str) -> str:
    return re.sub(r"[^\w.-]", "_", key)


def changes_to_make(name: str) -> Iterator[str]:
    """The lines that the reader of a workflow is told to change."""
    return (line for line in (WORKFLOWS / name).read_text().splitlines() if "# <-" in line)
