"""`--model ORG/NAME --data hub` from the first byte to the verdict, against a loopback hub: runs, `evalkit data`, and what is recorded."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from hub_server import Fault, Hub, point_at, serving, sha256, whole_files

from evalkit.cli import main
from evalkit.tasks.registry import task_classes

REPO, DATA = "example/tiny", "datasets/cais/mmlu"
RUN = ("run", "--model", REPO, "--data", "hub", "--tasks", "mmlu", "--limit", "4", "--name", "hubbed", "--quiet")
COMMIT = "c30699e8356da336a370243923dbaf21066bb9fe"  # at which evalkit reads MMLU


def parquet(rows: list[dict[str, object]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    file = BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


@pytest.fixture(scope="module")
def mmlu() -> dict[str, bytes]:
    """Every subject's files as the hub has them, with made-up questions."""
    from evalkit.data.sources import HubSource

    files = {}
    for table in task_classes()["mmlu"].tables(HubSource()):
        subject, file = table.hub.file.split("/")
        count = 5 if file.startswith("dev") else 2
        rows = [
            {"question": f"{file[:4]} {i} of {subject}?", "choices": ["red", "green", "blue", "grey"], "answer": i % 4}
            for i in range(count)
        ]
        files[table.hub.file] = parquet(rows)
    return files


@pytest.fixture
def hub(tiny_model: Path, mmlu: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    with serving() as hub:
        hub.add(REPO, tiny_model)
        hub.add(DATA, mmlu, any_commit=True)
        point_at(hub, tmp_path / "cache", monkeypatch)
        yield hub


@pytest.fixture
def few_subjects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six of the 57 subjects, in this process: twelve files do for all but the run from end to end."""
    monkeypatch.setattr("evalkit_tasks.mmlu.SUBJECTS", ("anatomy", "astronomy", "marketing", "philosophy", "professional_law", "virology"))


def environment(hub: Hub, home: Path, **settings: str) -> dict[str, str]:
    """A user's: the hub, its cache and evalkit's are in other places, and no token or proxy of this machine."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("HF_", "EVALKIT_")) and "PROXY" not in name.upper()
    }
    return kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "EVALKIT_CACHE": str(home / "evalkit"), **settings}


def record() -> dict[str, object]:
    return json.loads(Path("results/runs/hubbed/run.json").read_text())


def test_from_the_first_byte_to_the_verdict(hub: Hub, tmp_path: Path) -> None:
    """In processes of their own, which read the environment: downloaded, then everything again without the hub, from HF_HUB_CACHE."""

    def run(**settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "evalkit", *RUN],
            capture_output=True,
            text=True,
            timeout=300,
            env=environment(hub, tmp_path / "home", **settings),
        )

    done = run(HTTP_PROXY="http://127.0.0.1:9", NO_PROXY="127.0.0.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "not comparable" in done.stdout
    first = record()
    assert first["model"]["weights"]["revision"] == hub.repos[REPO].refs["main"]
    assert first["tasks"]["mmlu"]["n"] == 4
    assert first["tasks"]["mmlu"]["data"]["revision"] == COMMIT
    assert len(whole_files(tmp_path / "home" / "hub")) == 5 + len(set(hub.repos[DATA].commits[COMMIT].values()))
    hub.requests.clear()
    (tmp_path / "home" / "hub").rename(tmp_path / "elsewhere")
    done = run(HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path / "elsewhere"))
    assert (done.returncode, done.stderr) == (0, "")
    again = record()
    assert again["model"] == first["model"]
    assert again["tasks"]["mmlu"]["data"] == first["tasks"]["mmlu"]["data"]
    assert again["tasks"]["mmlu"]["metrics"] == first["tasks"]["mmlu"]["metrics"]
    assert not hub.requests


@pytest.mark.usefixtures("few_subjects")
def test_a_run_goes_on_where_the_hub_failed(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The data fails, then the model; each time one line, no folder that looks like a run, and what was fetched is not fetched again."""
    for fault, words in (
        (
            Fault("HEAD", "professional_law/test", status=503),
            ("professional_law/test-00000-of-00001.parquet of dataset cais/mmlu@", "or pass --data DIR"),
        ),
        (Fault("GET", "/cdn/", drop_after=0), ("model.safetensors of model example/tiny@", "run the same command again")),
    ):
        hub.faults[:] = [fault]
        assert main(RUN) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert not [word for word in words if word not in line], line
        assert not Path("results/runs/hubbed").exists()
    hub.faults.clear()
    assert main(RUN) == 0
    fetched = [request.path for request in hub.asked("GET", "/resolve/")]
    assert sorted(set(fetched) - {path for path in fetched if path.endswith("model.safetensors")}) == sorted(
        path for path in fetched if not path.endswith("model.safetensors")
    )


@pytest.mark.usefixtures("few_subjects")
def test_the_record_is_of_the_commit_that_was_read(hub: Hub, tmp_path: Path, tiny_model: Path) -> None:
    files = hub.repos[REPO].commits[first := hub.repos[REPO].refs["main"]]
    assert main(RUN) == 0
    before = record()
    config = json.loads(files["config.json"]) | {"rms_norm_eps": 1e-5}
    second = hub.push(REPO, {**files, "config.json": json.dumps(config).encode()})
    assert main(RUN) == 0
    after = record()
    assert (before["model"]["weights"]["revision"], after["model"]["weights"]["revision"]) == (first, second)
    assert before["model"]["fingerprint"] != after["model"]["fingerprint"]
    pinned = list(RUN)
    pinned[2] = f"{REPO}@{first}"
    assert main(pinned) == 0
    assert record()["model"]["weights"]["revision"] == first
    assert record()["model"]["fingerprint"] == before["model"]["fingerprint"]
    assert record()["tasks"]["mmlu"]["metrics"] == before["tasks"]["mmlu"]["metrics"]
    assert main([*RUN[:2], str(tiny_model), *RUN[3:]]) == 0
    assert "revision" not in record()["model"]["weights"]
    assert record()["model"]["fingerprint"] == before["model"]["fingerprint"]  # the same bytes, from wherever


@pytest.mark.usefixtures("few_subjects")
def test_data_commands(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = lambda action: ["data", action, "mmlu", "--data", "hub"]  # noqa: E731
    assert main(command("status")) == 0
    assert "12 tables at pinned revisions" in capsys.readouterr().out
    assert not hub.requests
    hub.faults.append(Fault("HEAD", "virology/dev", status=500))
    assert main(command("fetch")) == 2
    assert "virology/dev-00000-of-00001.parquet of dataset cais/mmlu@" in (line := capsys.readouterr().err)
    assert line.count("\n") == 1
    hub.faults[:] = [Fault("GET", "virology/dev", content=b"PAR1 and then nothing that fits")]
    assert main(command("verify")) == 2
    assert "missing or broken" in (shown := capsys.readouterr().out)
    assert "virology" in shown
    hub.faults.clear()
    assert main(command("fetch")) == 0
    hub.requests.clear()
    assert main(command("verify")) == 2  # made-up rows are not the official ones
    assert "differs from the official rows" in capsys.readouterr().out
    assert not hub.requests  # all in the cache, at a pinned commit
    gone = hub.repos.pop(DATA)
    (tmp_path / "cache").rename(tmp_path / "gone")
    assert main(command("fetch")) == 2
    assert (
        f"{hub.url} has no dataset cais/mmlu; check the name, or set HF_TOKEN if it is private; or pass --data DIR"
        in capsys.readouterr().err
    )
    gone.gated = True
    hub.repos[DATA] = gone
    assert main(command("fetch")) == 2
    assert f"dataset cais/mmlu@{COMMIT} is gated; ask for access at {hub.url}/datasets/cais/mmlu" in capsys.readouterr().err


@pytest.mark.usefixtures("few_subjects")
def test_a_cached_table_that_is_damaged(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "fetch", "mmlu", "--data", "hub"]) == 0
    (link,) = (tmp_path / "cache").glob("*/snapshots/*/virology/test-00000-of-00001.parquet")
    file = link.resolve()
    file.write_bytes(b"PAR1")
    assert main(RUN) == 2
    assert f"{file} is not readable" in (line := capsys.readouterr().err)
    assert "delete it, and run the same command again" in line
    file.unlink()
    assert main(RUN) == 0


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_the_weights(hub: Hub, tmp_path: Path, sent: signal.Signals) -> None:
    """A real one: exit code 4 in a line, the bytes that came are kept, and the same command goes on with them."""
    hub.faults.append(Fault("GET", "/cdn/", times=1, trickle=0.001))
    env = environment(hub, tmp_path / "home")
    process = subprocess.Popen([sys.executable, "-m", "evalkit", *RUN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    weights = sha256(hub.repos[REPO].commits[hub.repos[REPO].refs["main"]]["model.safetensors"])
    partial = tmp_path / "home" / "hub" / "models--example--tiny" / "blobs" / f"{weights}.incomplete"
    while not (partial.exists() and partial.stat().st_size > 500):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 4, said
    *_, said = said.splitlines()  # on a slow machine, after lines of progress
    assert "interrupted" in said
    kept = partial.stat().st_size
    hub.requests.clear()
    done = subprocess.run([sys.executable, "-m", "evalkit", *RUN], capture_output=True, text=True, timeout=300, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert [request.range for request in hub.asked("GET", "/cdn/")] == [f"bytes={kept}-"]
