"""What tests share: the real data (a test that asks for it is skipped where there is none), a tiny random model, Hypothesis' settings."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# under another name at once, which workers inherit: no test reads real data but through `data_dir`
if "EVALKIT_DATA" in os.environ:
    os.environ["EVALKIT_TEST_DATA"] = os.environ.pop("EVALKIT_DATA")
# several workers (pytest -n) share the cores: a thread each, here and in subprocesses; set before torch is imported
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
# the same examples on every machine, whatever its speed; nothing is kept between runs
settings.register_profile(
    "evalkit", derandomize=True, database=None, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("evalkit")


@pytest.fixture(scope="session", autouse=True)
def no_lines_of_phases() -> None:
    """A phase of a run that takes long on a slow machine is named in no test but those of progress."""
    from evalkit import progress

    progress.FIRST_LINE = progress.LINE_EVERY


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real benchmark data (EVALKIT_DATA)."""
    if not (data := os.environ.get("EVALKIT_TEST_DATA")):
        pytest.skip("EVALKIT_DATA is not set: no real benchmark data at hand")
    return Path(data).resolve()


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiny models run on one thread, here and in subprocesses: waking a second one costs more than their work."""
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """How many threads torch takes, for results that must not depend on it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a 2-layer llama over bytes: it knows nothing, but every code path is the real one."""
    import tokenizers
    import torch

    from moe_lm.checkpoint.write import save
    from moe_lm.config import ModelConfig
    from moe_lm.model import Decoder
    from moe_lm.tokenizer.tokenizer import Tokenizer

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    fast = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = tokenizers.decoders.ByteLevel()
    fast.add_special_tokens(["<|endoftext|>"])
    config = ModelConfig(
        family="llama",
        vocab_size=257,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        max_seq_len=8192,
        rope_theta=10000.0,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        qkv_bias=False,
        eos_token_ids=(256,),
    )
    model = Decoder(config).eval()
    rng = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.requires_grad_(False).copy_(torch.randn(parameter.shape, generator=rng) * parameter.shape[-1] ** -0.5)
    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    save(model, Tokenizer(fast, None, (256,), None), folder)
    return folder
