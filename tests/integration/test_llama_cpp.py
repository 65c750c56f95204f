"""llama.cpp itself, where the wheel is installed: log-likelihoods and answers beside the native engine's, and commands from end to end.

Of float32 weights with float32 keys and values both engines compute the same but for rounding. llama.cpp's keys and values are float16
as it is used, and it multiplies quantised weights with activations of 8 bits: their tolerances are wider, and stated where they are used.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import gguf_files
import numpy as np
import pytest
import tiny_models
import torch
import transformers

from evalkit import cli
from evalkit.bench.engines import Work, open_engine
from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError
from evalkit.lm import open_lm
from evalkit.lm.models import MODELS, local_path
from evalkit.lm.native import NativeLM
from evalkit.tasks import Generate, Loglikelihood

if importlib.util.find_spec("xllamacpp") is None:
    pytest.skip("xllamacpp is not installed: pip install 'evalkit-lm[llama-cpp]'", allow_module_level=True)

from evalkit.lm.llama_cpp.context import Model
from evalkit.lm.llama_cpp.engine import NOT_INVARIANT, LlamaCppLM
from evalkit.lm.llama_cpp.library import ContextParams, library
from evalkit.lm.llama_cpp.vocabulary import GgmlTokenizer
from moe_lm.checkpoint.gguf_file import GGUFFile

pytestmark = pytest.mark.usefixtures("one_thread")
VOCAB = 300
END = {"tokenizer.ggml.eos_token_id": VOCAB - 1}
BOS = END | {"tokenizer.ggml.bos_token_id": VOCAB - 2, "tokenizer.ggml.add_bos_token": True}
ROUNDING = 1e-4  # relative, where all is float32: orders of sums, and approximations of exp
HALF = 5e-4  # relative, where keys and values are float16, or the table that llama.cpp reads GELU from is
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokenizer_corpus.json").read_text("utf-8"))["cases"]


def tiny_file(folder: Path, family: str, **changed: Any) -> Path:
    """float32; the last token ends a text."""
    heads = 2 if family == "olmoe" else 1  # llama.cpp takes it for granted that OLMoE has no grouped queries
    moe = tiny_models.FAMILIES[family].moe
    config = tiny_models.tiny_config(
        family,
        vocab_size=VOCAB,
        hidden_size=64,
        head_dim=32,
        num_attention_heads=2,
        num_key_value_heads=heads,
        # as in the models that there are: llama.cpp does not read it
        moe=moe and replace(tiny_models.tiny_moe(moe), norm_topk_prob=False),
    )
    model = tiny_models.tiny_decoder(config)
    found: Path = gguf_files.write(folder / f"{family}.gguf", config, gguf_files.gguf_tensors(model), **{"keys": END} | changed)
    return found


@pytest.fixture
def llama_file(tmp_path: Path) -> Path:
    return tiny_file(tmp_path, "llama")


def opened(path: Path | str, **settings: Any) -> LlamaCppLM:
    lm = open_lm(ModelSpec(str(path), "llama_cpp", **settings))
    assert isinstance(lm, LlamaCppLM)
    return lm


QUESTIONS = [
    Loglikelihood("The sky is", (" blue", " a very high building", "!")),
    Loglikelihood("The sky is not green, it is", (" blue", " a very high building")),
    Loglikelihood("", ("Ein Anfang ohne Kontext",)),
    Loglikelihood("ab " * 100, ("c", "ab ab")),
]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen2_moe", "qwen3", "olmoe", "gemma3_text"])
def test_the_native_engines_scores(tmp_path: Path, family: str) -> None:
    path = tiny_file(tmp_path, family)
    expected = dict(open_lm(ModelSpec(str(path))).loglikelihood(QUESTIONS))
    for dtype, tolerance in (("float32", HALF if family == "gemma3_text" else ROUNDING), ("float16", HALF)):
        found = dict(opened(path, dtype=dtype).loglikelihood(QUESTIONS))
        for i in range(len(QUESTIONS)):
            assert found[i].logprobs == pytest.approx(expected[i].logprobs, rel=tolerance, abs=10 * tolerance), dtype
            assert (found[i].truncated, found[i].merged) == (expected[i].truncated, expected[i].merged)
            assert dtype != "float32" or found[i].is_greedy == expected[i].is_greedy


def test_rolling_and_answers_of_float32(llama_file: Path) -> None:
    """Sampled ones too: the draws are moe_lm's."""
    ours, theirs = open_lm(ModelSpec(str(llama_file))), opened(llama_file, dtype="float32")
    texts = ["One text.", "", "Another one, of more tokens than max_seq_len. " * 14]
    assert dict(theirs.loglikelihood_rolling(texts)) == pytest.approx(dict(ours.loglikelihood_rolling(texts)), abs=1e-2, rel=1e-5)
    asked = [Generate("Once upon a time", (), 20), Generate("Once upon a time", (), 20, temperature=1.0, seed=7), Generate("x", ("a",), 60)]
    assert dict(theirs.generate(asked)) == dict(ours.generate(asked))


def test_long_prompts_are_cut_and_counted_alike(llama_file: Path) -> None:
    ours, theirs = open_lm(ModelSpec(str(llama_file))), opened(llama_file, dtype="float32")
    long = "0123456789" * 60  # a token a character; max_seq_len is 512
    scored, asked = [Loglikelihood(long, ("ab",)), Loglikelihood(long, ("x",), 100, 50)], [Generate(long, (), 5)]
    (first, second), expected = (a for _, a in sorted(theirs.loglikelihood(scored))), dict(ours.loglikelihood(scored))
    cuts = [(answer.truncated, answer.cut_by_protocol) for answer in (first, second, expected[0], expected[1])]
    assert cuts == [(88, 0), (0, 550)] * 2
    assert first.logprobs == pytest.approx(expected[0].logprobs, rel=ROUNDING)
    assert dict(theirs.generate(asked)) == dict(ours.generate(asked))
    with pytest.raises(EvalkitError, match="leaves no room for a prompt: max_seq_len is 512"):
        list(theirs.generate([Generate("x", (), 512)]))


def gpt2_file(path: Path, model: Any) -> Path:
    """A tiny GPT-2, which moe_lm does not know, as llama.cpp's converter writes it."""
    config = model.config
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    gguf_files._add_vocabulary(writer, config.vocab_size, {"pre": "gpt-2"})
    writer.add_eos_token_id(VOCAB - 1)
    names = {
        "transformer.wte": "token_embd",
        "transformer.wpe": "position_embd",
        "transformer.ln_f": "output_norm",
        "ln_1": "attn_norm",
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    }
    for name, parameter in model.named_parameters():
        whole, _, kind = name.rpartition(".")
        array = parameter.detach().numpy()
        if whole.startswith("transformer.h."):
            _, _, layer, rest = whole.split(".", 3)
            whole = f"blk.{layer}.{names[rest]}"
            array = array.T if kind == "weight" and "norm" not in whole else array  # Conv1D holds its weight transposed
        else:
            whole = names[whole]
        writer.add_tensor(f"{whole}.{kind}", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_architecture_that_moe_lm_does_not_know(tmp_path: Path) -> None:
    """transformers' own GPT-2 says what is right; llama.cpp reads its GELU from a table of float16."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        bos_token_id=None,
        eos_token_id=VOCAB - 1,
        vocab_size=VOCAB,
        n_positions=128,
        n_embd=64,
        n_layer=2,
        n_head=2,
        tie_word_embeddings=True,
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    path = gpt2_file(tmp_path / "gpt2.gguf", model)
    with pytest.raises(EvalkitError, match="gpt2"):
        open_lm(ModelSpec(str(path)))
    lm = opened(path, dtype="float32")
    asked = Loglikelihood("The sky is", (" blue", " green as gras"))
    tokens = lm.token_request(asked)
    context, continuations = tokens.context, tokens.continuations
    ((_, found),) = lm.loglikelihood([asked])
    for logprob, continuation in zip(found.logprobs, continuations, strict=True):
        with torch.no_grad():
            logprobs = model(torch.tensor([[*context, *continuation]])).logits[0].log_softmax(-1)
        expected = sum(float(logprobs[len(context) - 1 + i, token]) for i, token in enumerate(continuation))
        assert logprob == pytest.approx(expected, rel=HALF)
    described = lm.describe()
    assert (described["family"], described["max_seq_len"]) == ("gpt2", 128)
    assert described["parameters"]["total"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("keys", [{}, END, BOS])
def test_both_tokenizers_give_the_same_ids(tmp_path: Path, keys: dict[str, Any]) -> None:
    """moe_lm's, which is used, and llama.cpp's own, which stands in where moe_lm does not read the file's."""
    path = tiny_file(tmp_path, "llama", keys=keys)
    ours, theirs = opened(path).tokenizer, GgmlTokenizer(Model(path, vocabulary_only=True), GGUFFile(path).metadata)
    texts = [case["text"] for case in GOLDEN if case["text"].isascii()] + ["<word7> a", " leading", "trailing ", "ab", ""]
    texts.append(f"<word{VOCAB - 2 - 257}>begins with BOS")
    assert len(texts) > 10
    assert theirs.encode_batch(texts) == ours.encode_batch(texts)
    assert [ids.count(VOCAB - 2) for ids in theirs.encode_batch(texts)] == [int(keys is BOS)] * (len(texts) - 1) + [1]
    for text in texts:
        ids = theirs.encode_plain(text)
        assert theirs.decode(ids) == ours.decode(ids)
    assert theirs.special == ours.special
    assert (theirs.bos_id, theirs.prefix_id, theirs.stop_ids) == (ours.bos_id, ours.prefix_id, ours.stop_ids)
    assert theirs.prefix_id == (None if not keys else VOCAB - 2 if keys is BOS else VOCAB - 1)
    assert theirs.sha256() != GgmlTokenizer(Model(tiny_file(tmp_path, "qwen2"), vocabulary_only=True), {}).sha256()


def test_a_tokenizer_that_moe_lm_does_not_read(tmp_path: Path) -> None:
    """llama.cpp takes a pre-tokenizer that moe_lm has not; the run says so."""
    path = tiny_file(tmp_path, "llama", pre="jina-v1-en")
    with pytest.raises(EvalkitError, match="jina-v1-en"):
        open_lm(ModelSpec(str(path)))
    lm = opened(path)
    assert "texts become tokens by llama.cpp's own tokenizer" in lm.notices[1]
    (answer,) = (a for _, a in lm.generate([Generate("Once upon a time", (), 5)]))
    assert answer.num_tokens == 5
    assert lm.fingerprint != opened(tiny_file(tmp_path, "llama")).fingerprint


@pytest.fixture(scope="module")
def smollm2() -> Path:
    if (path := local_path(MODELS["smollm2-135m"])) is None:
        pytest.skip("SmolLM2 is not installed")
    return path


def test_smollm2_in_both_engines(smollm2: Path) -> None:
    """Q4_1: activations of 8 bits and keys and values of 16 move a token's log-probability by hundredths, at times tenths; few choices."""
    theirs, ours = opened(smollm2), NativeLM.open(ModelSpec(str(smollm2)))
    own = GgmlTokenizer(Model(smollm2, vocabulary_only=True), GGUFFile(smollm2).metadata)
    for case in GOLDEN:
        assert theirs.tokenizer.encode(case["text"]) == own.encode(case["text"]) == case["smollm2"], case["name"]
    options = (" A", " B", " C", " D")
    shots = "Question: What is 2 + 2?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer: B\n\n"
    shots += "Question: Which animal barks?\nA. a cat\nB. a bird\nC. a dog\nD. a fish\nAnswer:"
    scored = [
        Loglikelihood(shots, options),
        Loglikelihood("The capital of France is", (" Paris", " London", " Berlin")),
        Loglikelihood("Water freezes at", (" 0 degrees Celsius", " 50 degrees Celsius", " night")),
    ]
    found, expected = dict(theirs.loglikelihood(scored)), dict(ours.loglikelihood(scored))
    for i in range(len(scored)):
        continuations = ours.token_request(scored[i]).continuations
        for a, b, tokens in zip(found[i].logprobs, expected[i].logprobs, continuations, strict=True):
            assert a == pytest.approx(b, abs=0.3 * len(tokens))
        assert np.argmax(found[i].logprobs) == np.argmax(expected[i].logprobs)
    asked = [
        Generate("Q: What is 3 + 4?\nA:", ("\n",), 16),
        Generate("The capital of France is", (".",), 8),
        Generate("", (), 8, messages=(("user", "What is the capital of Italy?"),)),
        Generate("1, 2, 3, 4,", (), 12),
    ]
    texts = [[answer.text for _, answer in sorted(lm.generate(asked), key=lambda pair: pair[0])] for lm in (theirs, ours)]
    assert sum(a == b for a, b in zip(*texts, strict=True)) >= 3


def arguments(path: Path, out: Path, *more: str) -> list[str]:
    shared = ["--model", str(path), "--engine", "llama_cpp", "--data", "sample", "--limit", "3"]
    return ["run", "--tasks", "mmlu@cloze", *shared, "--name", "r", "--out", str(out), *more]


def test_a_run_resumes_and_other_commands_read_it(tmp_path: Path, llama_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments(llama_file, tmp_path)) == 0
    assert NOT_INVARIANT in capsys.readouterr().err
    run = tmp_path / "r"
    model = json.loads((run / "run.json").read_text())["model"]
    assert (model["engine"], model["family"], model["layout_invariant"], model["device"]) == ("llama_cpp", "llama", False, "cpu")
    assert model["weights"]["precision"] == "F32" or model["weights"]["precision"] == "float32"
    assert "xllamacpp" in model["kernel"]
    samples = (run / "samples" / "mmlu.jsonl").read_text()
    assert cli.main(arguments(llama_file, tmp_path)) == 0
    assert "3 of 3 answers were in the journal" in capsys.readouterr().err
    assert (run / "samples" / "mmlu.jsonl").read_text() == samples
    native = ["--model", str(llama_file), "--data", "sample", "--limit", "3", "--out", str(tmp_path), "--name", "n"]
    assert cli.main(["run", "--tasks", "mmlu@cloze", *native]) == 0
    assert cli.main(["compare", str(tmp_path / "n"), str(run)]) == 0
    assert cli.main(["gate", str(tmp_path / "n"), str(run), "--margin", "0.9", "--allow-small-margin"]) in (0, 3)
    assert cli.main(["view", str(run)]) == 0


def test_verify_tells_what_differs(llama_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["verify", "--tasks", "mmlu@cloze", "--model", str(llama_file), "--engine", "llama_cpp", "--data", "sample", "--limit", "2"]
    code, out = cli.main(command), capsys.readouterr().out
    assert code == int("not invariant" in out)
    assert "no layout invariance is promised by kernel xllamacpp" in " ".join(out.split())


def test_fidelity_compares_the_engines(llama_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same weights in both: what is left is llama.cpp's float16 for keys and values."""
    asked = ["--tasks", "mmlu@cloze", "--data", "sample", "--limit", "3", "--json", "--quiet"]
    assert cli.main(["fidelity", str(llama_file), f"{llama_file},engine=llama_cpp", *asked]) == 0
    (copy,) = json.loads(capsys.readouterr().out)["copies"]
    assert copy["model"]["info"]["engine"] == "llama_cpp"
    (task,) = copy["tasks"].values()
    assert 0 < task["divergence"]["mean"]["value"] < 1e-4


@pytest.mark.slow
def test_bench_times_it(llama_file: Path, tmp_path: Path) -> None:
    sizes = ["--prompt-tokens", "20", "--output-tokens", "5", "--num-requests", "3"]
    assert cli.main(["bench", str(llama_file), "--engine", "llama_cpp", *sizes, "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*/bench.json")
    record = json.loads(file.read_text())
    assert (record["engine"], record["short_answers"]) == ("llama_cpp", 0)
    with pytest.raises(EvalkitError, match="exceed the model's max_seq_len of 512"):
        open_engine(ModelSpec(str(llama_file), "llama_cpp"), 1).prepare(Work(500, 20, 1, 0))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "truncated or damaged"),
        (lambda path: path.write_bytes(b"not a model"), "not a readable GGUF file"),
    ],
)
def test_a_damaged_file_is_one_line(llama_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any, what: str) -> None:
    damage(llama_file)
    assert cli.main(arguments(llama_file, tmp_path)) == 2
    assert what in capsys.readouterr().err.splitlines()[-1]


def test_what_llama_cpp_cannot_load_is_told_in_its_words(tmp_path: Path) -> None:
    """A sound GGUF file whose architecture nobody knows; nothing of llama.cpp's log reaches the terminal."""
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "nonsuch")
    writer.add_context_length(64)
    gguf_files._add_vocabulary(writer, VOCAB, {})
    writer.add_tensor("token_embd.weight", np.zeros((VOCAB, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    code = f"import sys; from evalkit import cli; sys.exit(cli.main({arguments(path, tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert f"llama.cpp can't load {path}" in done.stderr.splitlines()[-1]
    assert "unknown model architecture: 'nonsuch'" in done.stderr.splitlines()[-1]
    assert "llama_model_loader" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"device": "cuda"}, "the llama_cpp engine runs on the CPU"),
        ({"kernel": "cpu"}, "only the native engine has a choice of kernels"),
        ({"engine": "llama_cpp:x"}, "unknown engine"),
        ({"spec": "demo"}, "try --model smollm2-135m"),
    ],
)
def test_what_it_does_not_do_is_refused(llama_file: Path, settings: dict[str, str], what: str) -> None:
    if settings.get("spec") == "demo" and local_path(MODELS["demo"]) is None:
        pytest.skip("the demo model is not installed")
    with pytest.raises(EvalkitError, match=what):
        open_lm(ModelSpec(**{"spec": str(llama_file), "engine": "llama_cpp"} | settings))


def test_a_folder_of_safetensors_is_refused(tiny_model: Path) -> None:
    with pytest.raises(EvalkitError, match=r"is no GGUF file, as .* needs; write one with evalkit quantize"):
        opened(tiny_model)


def test_a_model_without_a_chat_template_has_no_conversations(llama_file: Path) -> None:
    with pytest.raises(EvalkitError, match="has no chat template"):
        list(opened(llama_file).generate([Generate("", (), 4, messages=(("user", "Hello"),))]))


def test_the_layout_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another version, in which a field came before: its defaults stand elsewhere."""
    lib = library()
    lib.check_layout()
    moved = ContextParams.from_buffer_copy(b"\0\0\0\0" + bytes(lib.llama_context_default_params())[:-4])
    monkeypatch.setitem(vars(lib), "llama_context_default_params", lambda: moved)
    with pytest.raises(EvalkitError, match=r"has other parameters than the version that evalkit knows \(n_ctx is not 512\); run `pip"):
        lib.check_layout()


def test_ctrl_c_ends_a_run_while_llama_cpp_computes(smollm2: Path, tmp_path: Path) -> None:
    """Within a pass, which llama.cpp ends with a status of its own: 2, aborted."""
    code = """
import os, signal, sys, threading
from evalkit.config import ModelSpec
from evalkit.lm import open_lm
from evalkit.lm.llama_cpp import context
context.PASS = 4096
lm = open_lm(ModelSpec(sys.argv[1], "llama_cpp"))
lm.prepare()
lib, statuses = lm.model.library, []
decode = lib.llama_decode
def recorded(*arguments):
    if arguments[1].n_tokens > 1:
        threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
    statuses.append(decode(*arguments))
    return statuses[-1]
vars(lib)["llama_decode"] = recorded
try:
    list(lm.loglikelihood_rolling(["word " * 4000]))
except KeyboardInterrupt:
    print(statuses)
"""
    done = subprocess.run([sys.executable, "-c", code, str(smollm2)], capture_output=True, text=True, timeout=500)
    assert (done.stdout.strip(), done.returncode) == ("[0, 2]", 0), done.stderr


def test_threads_change_no_bit(llama_file: Path) -> None:
    """Neither of passes over many tokens nor of single ones after a long context: the fingerprint leaves them out."""
    lm = opened(llama_file)
    asked = [Loglikelihood("0123456789 " * 46 + "x", ("cd",))]  # 507 tokens, and then one alone
    found = []
    for threads in (1, 2, 3):
        lm.settings = replace(lm.settings, threads=threads)
        lm.lay_out(512, 4, keep_prefixes=True)
        found.append([dict(lm.loglikelihood(asked)), dict(lm.loglikelihood(QUESTIONS))])
    assert found[0] == found[1] == found[2]


def test_settings_are_in_the_fingerprint(llama_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(llama_file).fingerprint
    assert opened(llama_file).fingerprint == first
    assert opened(llama_file, dtype="float32").fingerprint != first
    monkeypatch.setattr("evalkit.lm.llama_cpp.engine.BUDGET", 100)
    assert opened(llama_file).fingerprint != first
    assert os.environ.get("OMP_NUM_THREADS") == "1"
    monkeypatch.setattr("evalkit.lm.llama_cpp.engine.BUDGET", 512)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
