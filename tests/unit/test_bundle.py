"""`evalkit gate --bundle` and `evalkit audit`: the decision is found again, and every change is found."""

import hashlib
import json
import random
import shutil
import subprocess
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from bundles import rewritten
from fake_runs import fake_run, flips

from evalkit import cli
from evalkit.comparison.bundle import MARK, packed, policy_of, unpack
from evalkit.comparison.gate_config import GateConfig, Sequential
from evalkit.errors import EvalkitError


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two runs of two tasks: one loses, the other stays."""
    out = tmp_path_factory.mktemp("runs")
    lost, same = flips(800, 5, 60), flips(800, 3, 3)
    return [str(fake_run(out / name, name, mmlu=lost[i], gsm8k=same[i])) for i, name in enumerate("ab")]


def bundled(runs: list[str], file: Path, *options: str) -> Path:
    cli.main(["gate", *runs, "--margin", "0.03", "--bundle", str(file), *options])
    return file


def audited(file: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["audit", str(file)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ((), "FAIL"),
        (("--tasks", "gsm8k"), "PASS"),
        (("--margin", "mmlu=0.2,gsm8k@qwen=0.02"), "PASS"),
        (("--replay-order", "--order-seed", "7"), "FAIL"),
        (("--tasks", "gsm8k", "--replay-order", "--max-documents", "40"), "INCONCLUSIVE"),
        (("--cluster", "passage", "--metric", "acc"), "FAIL"),
    ],
)
def test_the_decision_is_found_again_without_the_runs(
    options: tuple[str, ...], outcome: str, runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = [shutil.copytree(run, tmp_path / Path(run).name) for run in runs]
    file = bundled([str(run) for run in moved], tmp_path / "gate.bundle", *options)
    for run in moved:
        shutil.rmtree(run)
    code, out, _ = audited(file, capsys)
    assert code == 0
    assert f"gate: {outcome}" in out
    assert f"({moved[0]})" in out
    assert "evalkit-audit-" not in out
    assert "base: a, sha256:a" in out
    assert f"{file}: as it was written, and its samples give this decision" in out


def test_the_same_gate_gives_the_same_bytes(runs: list[str], tmp_path: Path) -> None:
    assert bundled(runs, tmp_path / "1").read_bytes() == bundled(runs, tmp_path / "2").read_bytes()
    with zipfile.ZipFile(tmp_path / "1") as zipped:
        assert zipped.testzip() is None
        assert {*zipped.namelist()} == {
            "policy.json",
            "gate.json",
            *(f"{run}/{name}" for run in ("base", "cand") for name in ("run.json", "samples/mmlu.jsonl", "samples/gsm8k.jsonl")),
        }
    with zipfile.ZipFile(bundled(runs, tmp_path / "3", "--tasks", "gsm8k")) as zipped:
        assert "base/samples/mmlu.jsonl" not in zipped.namelist()


def test_one_flipped_byte_is_found(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = bundled(runs, tmp_path / "gate.bundle", "--tasks", "gsm8k").read_bytes()
    changed = tmp_path / "changed"
    # all of the archive's own bytes at its end, and a prime's multiples of the rest
    for place in (*range(0, len(raw) - 600, 499), *range(len(raw) - 600, len(raw))):
        changed.write_bytes(raw[:place] + bytes([raw[place] ^ 0x20]) + raw[place + 1 :])
        with pytest.raises(EvalkitError, match=r"is not as it was written|is no bundle of evalkit gate"):
            unpack(changed, tmp_path / "out")
    for damaged in (raw[:-1], raw[1:], raw + b"\n", b"", raw[: len(raw) // 2]):
        changed.write_bytes(damaged)
        code, _, err = audited(changed, capsys)
        assert code == 2
        assert str(changed) in err


@pytest.mark.parametrize(
    ("name", "old", "new", "complaint"),
    [
        (
            "gate.json",
            '"outcome": "fail"',
            '"outcome": "pass"',
            "states another decision than its samples give: outcome is 'pass', not 'fail'",
        ),
        ("gate.json", '"gained": 5', '"gained": 50', "tasks.mmlu@qwen.gained is 50, not 5"),
        ("policy.json", '"margin": 0.03', '"margin": 0.3', "states another decision"),
        ("policy.json", '"schema": 1', '"schema": 2', "is a bundle of another version"),
        ("policy.json", '"cluster": null', '"cluster": 7', "policy.json"),
        ("cand/samples/mmlu.jsonl", '"acc": 0.0', '"acc": 1.0', "not comparable"),
        ("cand/run.json", '"complete"', '"incomplete"', "is incomplete"),
    ],
)
def test_what_was_changed_with_care_is_found_too(
    name: str, old: str, new: str, complaint: str, runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = bundled(runs, tmp_path / "gate.bundle")

    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode(), 1)

    code, _, err = audited(rewritten(file, **{name: change}), capsys)
    assert code == 2
    assert complaint in err


def test_an_archive_that_is_damaged_under_a_right_digest_is_refused_in_one_line(runs: list[str], tmp_path: Path) -> None:
    """What zlib finds wrong is no error of zipfile's; and a name may be longer than the file system takes."""
    file = bundled(runs, tmp_path / "gate.bundle", "--tasks", "gsm8k")
    raw, rng, complaints = file.read_bytes(), random.Random(0), Counter[str]()
    length = len(MARK) + 64
    for _ in range(300):
        body = bytearray(raw[:-length])
        body[rng.randrange(len(body))] = rng.randrange(256)
        file.write_bytes(body + f"{MARK}{hashlib.sha256(body).hexdigest()}".encode())
        try:
            unpack(file, tmp_path / "out")
        except EvalkitError as error:
            complaints[str(error)] += 1
    assert any("while decompressing data" in complaint for complaint in complaints)
    file.write_bytes(raw)
    with pytest.raises(EvalkitError, match=r"cannot unpack .*: File name too long"):
        unpack(rewritten(file, **{f"base/samples/{'x' * 300}.jsonl": b""}), tmp_path / "out")


def test_foreign_files_in_it_are_refused(runs: list[str], tmp_path: Path) -> None:
    file = bundled(runs, tmp_path / "gate.bundle", "--tasks", "gsm8k")
    for name in ("../evil", "/tmp/evil", "base/samples/../../../evil.jsonl", "base/journal.sqlite"):
        raw = file.read_bytes()
        with pytest.raises(EvalkitError, match="is no part of a bundle"):
            unpack(rewritten(file, **{name: b"x"}), tmp_path / "out")
        file.write_bytes(raw)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "evil").exists()


def test_gates_that_no_bundle_can_hold(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EvalkitError, match="its figures are published"):
        policy_of(GateConfig((runs[0],), against="published"))
    with pytest.raises(EvalkitError, match="finish the candidate's run, and give --replay-order BASE CAND"):
        policy_of(GateConfig((runs[0],), sequential=Sequential({})))
    (tmp_path / "results_1.json").write_text("{}")
    with pytest.raises(EvalkitError, match=r"results_1\.json is another program's"):
        policy_of(GateConfig((runs[0], str(tmp_path / "results_1.json"))))
    assert cli.main(["gate", *runs, "--bundle", "/dev/null/x"]) == 2
    assert "--bundle" in capsys.readouterr().err
    assert cli.main(["audit", str(tmp_path / "none")]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_a_signature_by_ssh_keygen(runs: list[str], tmp_path: Path) -> None:
    """docs/ci.md's two commands: the bundle's signature is any tool's, of the file as a whole."""
    if not shutil.which("ssh-keygen"):
        pytest.skip("no ssh-keygen")
    file = bundled(runs, tmp_path / "gate.bundle", "--tasks", "gsm8k")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ci", "-f", str(key)], check=True)
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", "evalkit-gate", str(file)], check=True)
    (tmp_path / "signers").write_text(f"ci@example.com {(tmp_path / 'key.pub').read_text()}")
    verify = ["ssh-keygen", "-Y", "verify", "-f", str(tmp_path / "signers"), "-I", "ci@example.com", "-n", "evalkit-gate"]
    for raw, code in ((file.read_bytes(), 0), (rewritten(file, **{"gate.json": b"{}"}).read_bytes(), 255)):
        done = subprocess.run([*verify, "-s", f"{file}.sig"], input=raw, capture_output=True, check=False)
        assert done.returncode == code, done.stderr


def test_gate_json_is_the_bundles(runs: list[str], tmp_path: Path) -> None:
    file = bundled(runs, tmp_path / "gate.bundle", "--json", str(tmp_path / "gate.json"))
    _, stated = unpack(file, tmp_path / "out")
    assert stated == json.loads((tmp_path / "gate.json").read_text())
    policy = policy_of(GateConfig(tuple(runs)))
    assert packed(policy, stated)[:4] == b"PK\x03\x04"
