"""What benchmarks/transformers_step.py races is a fair opponent: as large as ours, it learns, padding is inert."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: it comes with the extra 'parity'")
pytest.importorskip("transformers", reason="transformers is not installed: it comes with the extra 'hf'")

from benchmarks import step, timing, torch_training, transformers_step  # noqa: E402
from benchmarks.torch_twin import Twin  # noqa: E402
from benchmarks.transformers_twin import Assembled  # noqa: E402

from spectron.config import JointConfig, load_experiment  # noqa: E402

EXPERIMENT = load_experiment(transformers_step.CONFIG, transformers_step.SMALL)
STAGE = step.joint_stage(EXPERIMENT, "adam")
STATISTICS = timing.speech_like(EXPERIMENT)


def assembled(attention: str) -> Assembled:
    torch.manual_seed(0)
    return Assembled(EXPERIMENT, STATISTICS, attention).train()


def loss(twin: Assembled, batches: tuple) -> torch.Tensor:
    """With the same dropout every time."""
    torch.manual_seed(1)
    return transformers_step.loss(twin, STAGE, batches)


@pytest.fixture(scope="module")
def batches():
    """Rows of several lengths in both streams; tokens without cross-entropy, of which agreement speaks, in one."""
    speech, text = transformers_step.noise(EXPERIMENT)
    scored = speech.text_mask & (np.arange(speech.text_mask.shape[1]) < 2)
    return speech.replace(text_loss_mask=scored), text


@pytest.mark.parametrize("attention", transformers_step.ATTENTION)
def test_all_of_it_learns(batches, attention):
    twin = assembled(attention)
    total = loss(twin, batches)
    total.backward()
    assert total.isfinite()
    grads = {name: param.grad for name, param in twin.named_parameters()}
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
    # A bias of all keys moves every score of a query alike, which softmax does not see.
    still = {name for name, grad in grads.items() if not grad.abs().sum() > 0 and "linear_k.bias" not in name}
    assert still == set()


@pytest.mark.parametrize("attention", transformers_step.ATTENTION)
def test_what_is_written_into_padding_changes_nothing(batches, attention):
    rng = np.random.default_rng(1)

    def scribbled(batch):
        behind = np.arange(batch.samples.shape[1]) >= batch.num_samples[:, None]
        samples = np.where(behind, rng.integers(-30_000, 30_000, batch.samples.shape), batch.samples)
        text = np.where(batch.text_mask, batch.text, rng.integers(4, 14, batch.text.shape))
        return batch.replace(samples=samples.astype(np.int16), text=text.astype(np.int32))

    others = tuple(scribbled(batch) for batch in batches)
    assert (others[0].samples != batches[0].samples).any()
    assert all((a.text != b.text).any() for a, b in zip(batches, others, strict=True))
    twin = assembled(attention)
    assert loss(twin, others).item() == loss(twin, batches).item()


def test_both_kinds_of_attention_are_one_model(batches):
    eager, sdpa = (assembled(attention).eval() for attention in transformers_step.ATTENTION)
    sdpa.load_state_dict(eager.state_dict())
    assert loss(eager, batches).item() == pytest.approx(loss(sdpa, batches).item(), rel=1e-5)


def test_their_decoder_is_ours(batches):
    """Llama with our parameters scores text as the plain twin does, which scores it as ours does."""
    plain, other = Twin(EXPERIMENT, STATISTICS, JointConfig()).lm, assembled("eager").lm
    names = {
        "attention_norm": "input_layernorm",
        "ff_norm": "post_attention_layernorm",
        "final_norm": "norm",
        "embedding": "embed_tokens",
        "attention": "self_attn",
        "ff": "mlp",
        "query": "q_proj",
        "key": "k_proj",
        "value": "v_proj",
        "out": "o_proj",
        **{part: f"{part}_proj" for part in ("gate", "up", "down")},
    }
    state = {
        "body.lm_head.weight" if name == "head.weight" else f"body.model.{translated(name, names)}": value
        for name, value in plain.state_dict().items()
    }
    other.load_state_dict(state)
    text = torch_training.to_torch(batches[1])
    prefix = torch.arange(len(text.text)) % 4
    with torch.no_grad():
        scores = [lm.score(text.text, text.text_mask, prefix)[text.text_mask] for lm in (plain, other)]
    torch.testing.assert_close(*scores)


def translated(name: str, names: dict[str, str]) -> str:
    return ".".join(names.get(part, part) for part in name.split("."))


def test_both_are_of_one_size():
    ours, theirs = transformers_step.sizes(load_experiment(transformers_step.CONFIG))
    assert ours > 1_000_000
    assert theirs == pytest.approx(ours, rel=transformers_step.TOLERANCE)


def test_another_size_is_refused():
    assert "+1.00%" in transformers_step.compare(1000, 1010)
    with pytest.raises(SystemExit, match="two different models"):
        transformers_step.compare(1000, 1100)


@pytest.mark.slow
def test_the_benchmark_runs(monkeypatch, capsys):
    monkeypatch.setattr(timing, "use_all_cores", lambda: 1)  # other tests keep their threads
    assert transformers_step.main(["--small", "--rounds", "2"]) == 0
    printed = capsys.readouterr().out
    assert "Parameters: ours" in printed
    assert all(
        f"| transformers, {attention} attention, AdamW |" in printed for attention in transformers_step.ATTENTION
    )
