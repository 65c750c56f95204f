"""Help, bare `evalkit`, `ls tasks SEARCH`, old spellings, and the completion script in a real shell."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from evalkit import cli
from evalkit.cli.completion import script
from evalkit.tasks.lm_eval.index import Entry

PARSERS = cli._parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]


def examples(command: str) -> list[str]:
    text = PARSERS[command].format_help()  # type: ignore[index]
    return re.findall(r"^  evalkit (.+)$", text.partition("\nexamples:\n")[2], re.MULTILINE)


@pytest.mark.parametrize("command", list(PARSERS))  # type: ignore[call-overload]
def test_every_command_has_examples_that_parse(command: str) -> None:
    found = examples(command)
    assert found
    for text in found:
        assert text.split()[0] == command
        words = shlex.split(text.partition(" > ")[0].partition(" >> ")[0])
        cli._parser().parse_args(words)


def test_bare_and_help_print_the_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    texts = []
    for command in ([], ["help"], ["help", "run"]):
        assert cli.main(command) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == cli._parser().format_help()
    assert texts[2] == PARSERS["run"].format_help()  # type: ignore[index]
    assert cli.main(["help", "rum"]) == 2
    assert "did you mean 'run'?" in capsys.readouterr().err


@pytest.mark.parametrize("columns", ["80", "200"])
def test_help_fits_the_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for parser in PARSERS.values():  # type: ignore[union-attr]
        whole, _, told = parser.format_help().partition("\nexamples:\n")
        assert max(map(len, whole.splitlines())) <= int(columns)
        assert told


def test_old_spellings_keep_working() -> None:
    parse = cli._parser().parse_args
    assert parse(["serve", "--name", "m"]).name == parse(["serve", "--served-model-name", "m"]).name == "m"
    assert [parse(["correct", "r", "--labels", "l", flag, "t"]).task for flag in ("--task", "--tasks")] == ["t", "t"]


def test_ls_tasks_search(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    names = {name: Entry("task", None) for name in ("arc_easy", *(f"mmlu_{i:03}_pro" for i in range(60)), "mmlu_pro")}
    monkeypatch.setattr("evalkit.tasks.lm_eval.index.index", lambda include_path: names)
    assert cli.main(["ls", "tasks", "MMLU"]) == 0
    text = capsys.readouterr().out
    assert "mmlu" in text
    assert text.index("lm_eval:mmlu_pro") < text.index("lm_eval:mmlu_000_pro")
    assert "61 of lm-eval's 62 names hold 'mmlu': the shortest 40 are above, --json has all" in text
    assert "gsm8k" not in text
    assert "arc_easy" not in text


COMPLETIONS = [
    ("evalkit re", {"reproduce", "report"}),
    ("evalkit run --tasks mmlu,gsm8k@lm", {"lm-eval"}),  # bash completes after the last @
    ("evalkit run --tasks gsm", None),
    ("evalkit run --dtype ", {"auto", "float32", "bfloat16", "float16", "int8"}),
    ("evalkit ls ta", {"tasks", "tables"}),
    ("evalkit reproduce smo", {"smollm2", "smollm2-135m"}),
    ("evalkit report r --published qwen1.5-moe,smo", {"qwen1.5-moe,smollm2"}),
    ("evalkit bench --rep", {"--repeats"}),
    ("evalkit ls runs --out ", set()),  # the shell's own: files
    ("evalkit help comp", {"compare", "completion"}),
]


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_bash_completes(tmp_path: Path) -> None:
    file = tmp_path / "evalkit.bash"
    file.write_text(script(PARSERS))  # type: ignore[arg-type]
    lines = [f"source {file}"]
    for text, _ in COMPLETIONS:
        # as readline has it: : and @ end a word
        words = [word for part in text.split(" ") for word in (re.findall(r"[:@]|[^:@]+", part) or [""])]
        quoted = " ".join(map(shlex.quote, words))
        lines.append(f"COMP_WORDS=({quoted}) COMP_CWORD={len(words) - 1} COMP_LINE={shlex.quote(text)} COMP_POINT={len(text)}")
        lines.append('_evalkit; echo "${COMPREPLY[*]}"')
    done = subprocess.run(["bash", "--norc", "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    found = dict(zip([text for text, _ in COMPLETIONS], [set(line.split()) for line in done.stdout.split("\n")], strict=False))
    for text, expected in COMPLETIONS:
        if expected is not None:
            assert found[text] == expected, text
    assert {"gsm8k", "gsm8k@lm-eval"} < found["evalkit run --tasks gsm"]


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_reads_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "zsh"]) == 0
    subprocess.run(["zsh", "-f", "-n"], input=capsys.readouterr().out, text=True, check=True)
