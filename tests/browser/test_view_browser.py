"""The page of `evalkit view` in headless Chromium: fast with 15,000 samples, harmless with hostile ones, usable without a mouse or eyes.

Needs playwright, and a chromium on the PATH or named by EVALKIT_CHROMIUM (Debian: apt-get install chromium).
"""

import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lm_eval_folders
import pytest
from big_runs import big_run
from fake_runs import asked, edit_run, fake_run, sample, write_samples
from report_runs import counted, figure, judge

from evalkit.codec import encode
from evalkit.config import RunConfig
from evalkit.lm.models import MODELS, local_path
from evalkit.progress import Reporter
from evalkit.runner.run import run
from evalkit.view import page as view_page

BAR = 2.0  # seconds: to load, filter, page
HOSTILE = {
    "script": "</script><script>window.owned = 1</script><img src=x onerror='window.owned = 1'><!--",
    "bidi": "user\u202e\u2066 txt.exe\u2069 \u200b\U000e0041\ufeff",
    "control": "a\x00\x00\x00b\x1b[31mred\x07\r\x85\u2028end",
    "surrogate": "half \ud800 of one",
    "markup": "{{7*7}} ${1} `x` &lt;b&gt; javascript:alert(1)",
    "long": "z" * 2**20,
    "nul": "\x00\n" * 2**19,
}


class Tab:
    """A page that was opened from disk, and all that it complained of or asked for."""

    def __init__(self, browser: Any, file: Path, address: str = "", **context: Any):
        self.context = browser.new_context(**{"viewport": {"width": 1366, "height": 768}, **context})
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.devtools = self.context.new_cdp_session(self.page)
        self.devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        start = time.perf_counter()
        self.page.goto(file.as_uri() + address)
        self.page.wait_for_selector("html[data-ready]")
        self.load_seconds = time.perf_counter() - start
        if os.getloadavg()[0] > (os.cpu_count() or 1):  # others' work on the machine is not the page's: its own thread's time then
            metrics = self.devtools.send("Performance.getMetrics")["metrics"]
            self.load_seconds = next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")
        self.file = file

    def __enter__(self) -> "Tab":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    @property
    def count(self) -> str:
        return self.page.inner_text("#count")

    def wait_count(self, text: str) -> None:
        """Until the page counts this; " of N": any number of N."""
        end = time.perf_counter() + 10
        while self.count != text and not (text.startswith(" of") and self.count.endswith(text + " samples")):
            assert time.perf_counter() < end, f"{self.count}, not {text}"

    def rows(self) -> list[str]:
        return self.page.locator("#list .id").all_inner_texts()

    def address(self) -> str:
        return str(self.page.evaluate("decodeURIComponent(location.hash)"))

    def check_quiet(self) -> None:
        assert self.complaints == []
        assert {url.partition("#")[0] for url in self.requests} == {self.file.as_uri()}


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of 240 questions in three subjects, and ten problems that only the first answered; every change occurs."""
    out = tmp_path_factory.mktemp("two")
    base = [1.0, 1.0, 0.0, 0.0] * 60
    cand = [1.0, 0.0, 1.0, 0.0] * 60
    fake_run(out / "a", "old model", mmlu=base, gsm8k=[1.0, 0.0] * 5)
    fake_run(out / "b", "new model", mmlu=cand)
    for name, scores in (("a", base), ("b", cand)):
        rows = [sample(i, s, f"{name} says {'A' if s else 'B'} because of reason {i}") for i, s in enumerate(scores)]
        for row in rows[::40]:
            row["extraction_failed"] = True
        write_samples(out / name, "mmlu", rows)
        edit_run(out / name, "mmlu", n_total=14_042, counts=asdict(counted(extraction_failed=6, truncated=2)))
    write_samples(out / "a", "gsm8k", [sample(i, s, "x", group="all") for i, s in enumerate([1.0, 0.0] * 5)])
    return view_page.write_view([str(out / "a"), str(out / "b")])


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fake_run(tmp_path_factory.mktemp("hostile") / "h", HOSTILE["script"] + HOSTILE["bidi"], t=[1.0])
    rows = [
        sample(0, 1.0, text, doc_id=name, group=text[:300], doc={"question": text, text[:200]: text}, target=text, extracted=text)
        | {"requests": [asked(text) | {"until": [text[:100]], "messages": [[text[:100], text]]}]}
        for name, text in HOSTILE.items()
    ]
    options = {"context": HOSTILE["script"], "continuations": [HOSTILE["script"], HOSTILE["bidi"]]}
    said = {"logprobs": [-1.0, -1e300], "is_greedy": [True, False]}
    rows.append(sample(0, 0.0, "", doc_id=HOSTILE["script"], requests=[options], responses=[said]))
    write_samples(folder, "t", rows)
    edit_run(folder, "t", protocol=HOSTILE["script"], data={"source": HOSTILE["bidi"], "revision": None, "sha256": HOSTILE["script"]})
    return view_page.write_view([str(folder)])


def test_15000_samples_load_filter_and_page(browser: Any, data_dir: Path, tmp_path: Path) -> None:
    seconds_of_use(browser, big_run(tmp_path / "big", data_dir, 0.45), 15_361)


@pytest.mark.slow
def test_15000_samples_load_filter_and_page_in_time(browser: Any, data_dir: Path, tmp_path: Path) -> None:
    assert_in_time(browser, big_run(tmp_path / "big", data_dir, 0.45), 15_361)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_15000_samples_of_a_real_run_load_filter_and_page_in_time(browser: Any, data_dir: Path, tmp_path: Path, one_thread: None) -> None:
    """All of MMLU and PAWS-X's German through `evalkit run`, by a model whose weights are random: some five minutes."""
    config = RunConfig(
        ("mmlu", "pawsx:de"), model=str(random_model(tmp_path / "model")), data=str(data_dir), out=str(tmp_path), name="real"
    )
    record = run(config, Reporter(quiet=True))
    assert record.is_complete
    assert_in_time(browser, config.folder, sum(task.n for task in record.tasks.values()))


def random_model(folder: Path) -> Path:
    """Two small layers with a real tokenizer: prompts are read, and answers written, in its 49,152 tokens."""
    gguf = local_path(MODELS["smollm2-135m"])
    if gguf is None:
        pytest.skip("smollm2-135m, whose tokenizer this run borrows, is not on this machine")
    import torch

    from moe_lm.checkpoint.random_weights import random_checkpoint
    from moe_lm.checkpoint.read import open_checkpoint
    from moe_lm.checkpoint.write import save

    checkpoint = open_checkpoint(gguf)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = replace(checkpoint.config, **sizes, intermediate_size=48)
    save(random_checkpoint(config).read(torch.float32, "cpu", None), checkpoint.tokenizer, folder)
    return folder


def seconds_of_use(browser: Any, folder: Path, total: int) -> dict[str, float]:
    """Load the page of a run with all of MMLU, `total` samples, and filter, search, page and open: what came up, and how long each took."""
    assert total > 15_000
    file = view_page.write_view([str(folder)])
    assert file.stat().st_size < 12e6
    with Tab(browser, file) as tab:
        assert tab.count == f"{total:,} samples"
        seconds = {"load": tab.load_seconds}
        some, every = f" of {total:,}", f"{total:,} samples"
        for what, act, count, address in (
            ("verdict", lambda: tab.page.locator("input[name=verdict][value=wrong]").check(force=True), some, "verdict=wrong"),
            ("subject", lambda: tab.page.select_option("#subject", "professional_law"), some, "subject=professional_law"),
            ("clear", lambda: tab.page.click("#reset"), every, ""),
            ("search", lambda: tab.page.fill("#search", "photosynthesis"), some, "q=photosynthesis"),
            ("no hit", lambda: tab.page.fill("#search", "no such words"), f"0 of {total:,} samples", "q=no+such+words"),
            ("clear again", lambda: tab.page.click("#reset"), every, ""),
            ("page", lambda: tab.page.click("#page-after"), every, "page=2"),
            ("open", lambda: tab.page.locator("#list a").first.click(), every, "sample=mmlu:"),
        ):
            start = time.perf_counter()
            act()
            tab.wait_count(count)
            while address not in tab.address():
                assert time.perf_counter() - start < 20
            seconds[what] = time.perf_counter() - start
        assert "Question: " in tab.page.inner_text("#detail pre")
        tab.check_quiet()
    return seconds


def assert_in_time(browser: Any, folder: Path, total: int) -> None:
    """Everything that is done with the page takes less than BAR; a slow try may be made again."""
    best: dict[str, float] = {}
    for _ in range(3):
        best = {what: min(took, best.get(what, took)) for what, took in seconds_of_use(browser, folder, total).items()}
        if max(best.values()) < BAR:
            break
    print({what: round(value, 2) for what, value in best.items()})
    assert max(best.values()) < BAR, best


@pytest.mark.slow
def test_two_runs_of_15000_samples_load_in_time(browser: Any, data_dir: Path, tmp_path: Path) -> None:
    runs = [str(big_run(tmp_path / name, data_dir, skill)) for name, skill in (("a", 0.45), ("b", 0.55))]
    file = view_page.write_view(runs)
    loads = []
    while not loads or (min(loads) > BAR and len(loads) < 3):
        with Tab(browser, file, "#change=lost&q=energy") as tab:
            loads.append(tab.load_seconds)
            assert " of 15,361" in tab.count
            tab.check_quiet()
    assert min(loads) < BAR


def test_filters_and_their_counts(browser: Any, two_runs: Path) -> None:
    with Tab(browser, two_runs) as tab:
        assert tab.count == "250 samples"
        for value, expected in (("lost", 60), ("gained", 60), ("right", 60), ("wrong", 60), ("alone", 10), ("disagree", 130)):
            tab.page.locator(f"input[name=change][value={value}]").check(force=True)
            tab.wait_count(f"{expected} of 250 samples")
            assert tab.address() == f"#change={value}"
            assert tab.page.locator(f".pill.{value} b").last.inner_text() == str(expected)
        tab.page.locator("input[name=change][value=lost]").check(force=True)
        tab.page.select_option("#subject", "subject1")
        tab.wait_count("20 of 250 samples")
        assert all(int(row.removeprefix("d")) % 3 == 1 for row in tab.rows())
        tab.page.fill("#search", "REASON 1")
        tab.wait_count("10 of 250 samples")  # d1, d13, d109, d121 .. d193: in either case
        assert tab.page.locator("#detail mark").count() == 0
        tab.page.locator("#list a").first.click()
        assert tab.page.locator("#detail mark").all_inner_texts() == ["reason 1", "reason 1"]
        tab.page.click("#reset")
        tab.wait_count("250 samples")
        tab.page.locator("#failed").check()
        tab.wait_count("6 of 250 samples")
        tab.page.select_option("#task", "gsm8k")
        tab.wait_count("0 of 250 samples")
        assert "No sample matches" in tab.page.inner_text("#list")
        tab.check_quiet()


def test_the_header_says_what_no_figure_goes_without(browser: Any, two_runs: Path) -> None:
    with Tab(browser, two_runs) as tab:
        header = tab.page.inner_text("header")
        for words in ("old model", "new model", "50.0%", "43.7% to 56.3%", "240 of 14,042", "dir abababababab", "qwen"):
            assert words in header, words
        assert "6 extractions failed; they count as wrong; 2 prompts did not fit and were truncated" in header
        fingerprints = tab.page.locator("#runs code").evaluate_all("nodes => nodes.map((node) => node.title)")
        assert fingerprints == ["sha256:old model", "sha256:new model"]


def test_the_header_says_how_a_group_is_shown(browser: Any, tmp_path: Path) -> None:
    """As compare does, where a group's own figure is no mean of its tasks."""
    tasks = {f"langs_{name}": lm_eval_folders.rows(f"langs_{name}", [1.0, 0.0]) for name in ("big", "small")}
    run = lm_eval_folders.write(tmp_path / "run", tasks, {"langs": {"acc,none": 0.9}}, {"langs": [*tasks]})
    with Tab(browser, view_page.write_view([str(run)])) as tab:
        assert tab.page.inner_text(".notice") == "langs: its own figure is no mean over all of its tasks; they are compared one by one"


def test_an_address_leads_back_to_the_same_view(browser: Any, two_runs: Path) -> None:
    with Tab(browser, two_runs, "#task=mmlu&change=gained&page=1&sample=mmlu:d6") as tab:
        assert tab.count == "60 of 250 samples"
        assert tab.page.inner_text("#title") == "d6"
        assert tab.page.locator("#list a[aria-current]").inner_text().split()[0:2] != []
        detail = tab.page.inner_text("#detail")
        for words in ("a says B because of reason 6", "b says A because of reason 6", "question 6", "Right answer", "Extracted"):
            assert words in detail, words
        assert tab.page.locator(".parted").all_inner_texts()[0].startswith("a says")
        tab.page.evaluate("location.hash = '#change=lost'")
        tab.wait_count("60 of 250 samples")
        assert tab.rows()[0] == "d1"
        tab.page.go_back()
        tab.page.locator("#title", has_text="d6").wait_for()
    with Tab(browser, two_runs, "#sample=mmlu:d233&page=1&verdict=nonsense") as tab:
        assert tab.count == "0 of 250 samples"
    with Tab(browser, two_runs, "#sample=mmlu:d233") as tab:  # on the third page of the list
        assert (tab.page.inner_text("#page"), tab.page.locator("#list a[aria-current] .id").inner_text()) == ("3 of 3", "d233")


def test_keys(browser: Any, two_runs: Path) -> None:
    with Tab(browser, two_runs) as tab:
        keys = tab.page.keyboard
        for key in "jjjk":
            keys.press(key)
        assert tab.page.inner_text("#title") == "d1"
        assert tab.page.evaluate("document.activeElement.dataset.key") == "mmlu:d1"
        keys.press("ArrowDown")
        assert tab.page.inner_text("#title") == "d2"
        keys.press("Enter")  # into the sample
        assert tab.page.evaluate("document.activeElement.id") == "title"
        keys.press("Escape")
        assert tab.page.evaluate("document.activeElement.dataset.key") == "mmlu:d2"
        keys.press("n")
        assert tab.rows()[0] == "d100"
        keys.press("p")
        assert tab.rows()[0] == "d0"
        keys.press("/")
        keys.type("reason 77")
        tab.wait_count("1 of 250 samples")
        assert tab.page.input_value("#search") == "reason 77"  # letters typed there are no commands
        keys.press("Escape")
        keys.press("?")
        assert tab.page.locator("#help").is_visible()
        tab.page.locator("#single-keys").uncheck()
        keys.press("Escape")
        assert not tab.page.locator("#help").is_visible()
        keys.press("?")
        assert not tab.page.locator("#help").is_visible()
        tab.check_quiet()


def test_the_last_sample_of_a_page_leads_to_the_next_page(browser: Any, two_runs: Path) -> None:
    with Tab(browser, two_runs, "#sample=mmlu:d99") as tab:
        tab.page.keyboard.press("j")
        assert (tab.page.inner_text("#title"), tab.page.inner_text("#page")) == ("d100", "2 of 3")
        tab.page.keyboard.press("k")
        assert (tab.page.inner_text("#title"), tab.page.inner_text("#page")) == ("d99", "1 of 3")


def test_hostile_samples_do_no_harm(browser: Any, hostile_run: Path) -> None:
    with Tab(browser, hostile_run) as tab:
        shown = {}
        for i, name in enumerate([*HOSTILE, HOSTILE["script"]]):
            tab.page.locator("#list a").nth(i).click()
            tab.page.locator("#title").wait_for()
            for summary in tab.page.locator("#detail summary").all():
                summary.click()
            shown[name] = tab.page.inner_text("#detail")
            assert tab.page.evaluate("window.owned") is None
            assert tab.page.evaluate("document.querySelectorAll('img, iframe, #detail script, [onerror]').length") == 0
        assert HOSTILE["script"] in shown["script"]
        assert "userU+202EU+2066 txt.exeU+2069 U+200BU+E0041U+FEFF" in shown["bidi"]
        assert "aNUL×3bESC[31mredBELCRU+0085U+2028end" in shown["control"]
        assert "half U+D800 of one" in shown["surrogate"]
        assert HOSTILE["markup"] in shown["markup"]
        everything = tab.page.evaluate("document.body.textContent.replace(document.getElementById('samples').textContent, '')")
        assert not set(everything) & set("\x00\x1b\u202e\u2066\u2069\u200b\ufeff\u2028\U000e0041")
        assert "Show all 1,048,576 characters" in shown["long"]
        assert len(shown["long"]) < 400_000
        assert len(shown["nul"]) < 1_000_000
        tab.check_quiet()


def test_a_line_of_a_million_characters_is_shown_whole_when_asked(browser: Any, hostile_run: Path) -> None:
    with Tab(browser, hostile_run, "#sample=t:long") as tab:
        texts = tab.page.locator("section > div pre")
        assert len(texts.first.inner_text()) == 20_000
        tab.page.locator("button.all").first.click()
        assert tab.page.evaluate("Math.max(...[...document.querySelectorAll('#detail pre')].map((pre) => pre.textContent.length))") == 2**20
        assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_policy_forbids_scripts_that_are_not_the_page_s(browser: Any, two_runs: Path) -> None:
    with Tab(browser, two_runs) as tab:
        inject = """() => {
            const script = document.createElement('script'); script.textContent = 'window.owned = 1'; document.body.append(script);
            const image = document.createElement('img'); image.src = 'https://example.org/x.png'; document.body.append(image);
            return fetch('https://example.org/').then(() => 'sent', () => 'refused');
        }"""
        assert tab.page.evaluate(inject) == "refused"
        assert tab.page.evaluate("window.owned") is None
        assert any("Content Security Policy" in complaint for complaint in tab.complaints)


@pytest.mark.parametrize(("scheme", "viewport"), [("light", (1366, 768)), ("dark", (390, 844))], ids=["laptop", "phone"])
def test_axe_finds_nothing_serious(browser: Any, two_runs: Path, scheme: str, viewport: tuple[int, int]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed").Axe()
    screen = {"width": viewport[0], "height": viewport[1]}
    for address in ("#change=lost&q=reason+1", "#change=lost&q=reason+1&sample=mmlu:d1", "?"):  # few rows: axe takes its time over each
        with Tab(browser, two_runs, "#task=gsm8k" if address == "?" else address, color_scheme=scheme, viewport=screen) as tab:
            if address == "?":
                tab.page.click("#help-open")
            tab.page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
            found = axe.run(tab.page).response
            assert len(found["passes"]) > 20
            serious = [
                (each["id"], [node["html"][:200] for node in each["nodes"]])
                for each in found["violations"]
                if each["impact"] in ("serious", "critical")
            ]
            assert not serious, (address, serious)


def test_a_phone_shows_the_list_then_the_sample(browser: Any, two_runs: Path) -> None:
    with Tab(browser, two_runs, viewport={"width": 390, "height": 844}, has_touch=True) as tab:
        assert not tab.page.locator("#detail").is_visible()
        assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        tab.page.locator("#list a").nth(1).tap()
        assert tab.page.inner_text("#title") == "d1"
        assert not tab.page.locator("#listing").is_visible()
        assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        tab.page.go_back()
        tab.page.locator("#listing").wait_for()
        tab.page.locator("#list a").nth(2).tap()
        tab.page.get_by_role("button", name="Back to the list").click()
        assert tab.page.evaluate("document.activeElement.dataset.key") == "mmlu:d2"
        tab.check_quiet()


def test_turns_and_judgments(browser: Any, tmp_path: Path) -> None:
    turns = [asked("") | {"messages": [["user", f"turn {k}: say yes"]]} for k in (1, 2)]
    said = [{"text": f"yes, {k} times", "finish_reason": "stop", "num_tokens": 3} for k in (1, 2)]
    judged = [{"turn": k, "repeat": 0, "published": 7.0, "strict": None, "judgment": f"Well said. Rating: [[{6 + k}]]"} for k in (1, 2)]
    folder = fake_run(tmp_path / "r", "m", mt_bench=[1.0])
    figures = {"score": encode(figure(7.5, 1.5))}
    edit_run(folder, "mt_bench", headline="score", metrics=figures, judge=encode(judge("gpt-4")))
    row = sample(0, 0, "", requests=turns, responses=said, metrics={"score": 7.5}, judgments=judged, extracted="turn 1: 7, turn 2: 8")
    write_samples(folder, "mt_bench", [row])
    with Tab(browser, view_page.write_view([str(folder)]), "#sample=mt_bench:d0") as tab:
        detail = tab.page.inner_text("#detail")
        assert "7.500" in tab.page.inner_text("#figures")
        order = [
            "Graded",
            "turn 1: 7",
            "1 OF 2",
            "turn 1: say yes",
            "yes, 1 times",
            "2 OF 2",
            "turn 2: say yes",
            "yes, 2 times",
            "[[7]]",
            "[[8]]",
        ]
        places = [detail.find(words) for words in order]
        assert -1 not in places
        assert places == sorted(places)
        tab.check_quiet()


def test_without_scripts_the_page_says_so(browser: Any, two_runs: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(two_runs.as_uri())
    assert "switched off" in page.inner_text("body")
    context.close()
