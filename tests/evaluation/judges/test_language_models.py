"""Language models as judges: ours against its own decoder, one of transformers against its own loss."""

import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_exports
import tiny_run

from spectron.checkpoints.manager import Checkpointer, make_meta
from spectron.config import TextLMConfig
from spectron.evaluation.judges.base import facts_of
from spectron.evaluation.judges.language_models import load_language_model
from spectron.objectives.text_lm import TextLM
from spectron.parallel import sharding
from spectron.recognition.ctc_search import Fusion
from spectron.types import Batch, Statistics, TrainState, UserError
from spectron.utils.files import checksum_of

LONGEST = 24  # tokens of a text by hand
NOTHING = Statistics(np.zeros(16, np.float32), np.ones(16, np.float32))


@pytest.fixture(scope="module")
def objective():
    return TextLM(TextLMConfig(), tiny_run.experiment(), NOTHING)


@pytest.fixture(scope="module")
def params(objective):
    text = np.ones((1, 4), np.int32)
    none = np.zeros(1, np.int32)
    batch = Batch(
        samples=np.zeros((1, 0), np.int16),
        num_samples=none,
        prompt_samples=none,
        text=text,
        text_mask=text > 0,
        text_loss_mask=text > 0,
        token_ends=text,
    )
    return jax.device_get(sharding.unbox(jax.jit(objective.init)(jax.random.key(0), batch)))


@pytest.fixture
def ours(params, tmp_path):
    """An untrained model in a checkpoint of stage "text", step 3."""
    with Checkpointer(tmp_path / "checkpoints") as saver:
        saver.save(3, TrainState(jnp.int32(3), params, {}, {}), make_meta(tiny_run.experiment(), "text", None))
    return load_language_model(tmp_path)


@pytest.fixture(scope="module")
def logits_of(objective, params):
    """By hand: what the decoder says behind every token of one row."""
    score = jax.jit(lambda *row: objective.lm.apply({"params": params["lm"]}, *row, method="score"))

    def logits(ids):
        read = jnp.asarray([([objective.vocabulary.sos_id, *ids] + [0] * LONGEST)[:LONGEST]], jnp.int32)
        mask = (jnp.arange(LONGEST) <= len(ids))[None]
        return jax.nn.log_softmax(score(read, mask, jnp.zeros(1, jnp.int32))[0, : len(ids) + 1])

    return logits


def test_our_scores_are_the_decoders(ours, objective, logits_of):
    texts = ["one two three", "", "three nobody", "zero " * 20]
    found = ours.score(texts)
    assert [tokens for _, tokens in found] == [3, 0, 2, 20]
    assert found[1] == (0.0, 0)
    for text, (log_prob, _) in zip(texts, found, strict=True):
        ids = objective.vocabulary.encode(text)
        by_hand = logits_of(ids)
        assert log_prob == pytest.approx(sum(float(by_hand[i, token]) for i, token in enumerate(ids)), abs=1e-4)
    assert ours.facts["settings"]["stage"] == "text"
    assert ours.facts["checksum"] == load_language_model(ours.facts["name"]).facts["checksum"]


def test_our_completions_are_the_likeliest_tokens(ours, objective, logits_of):
    prompts = ["one two", "three", ""]
    said = ours.complete(prompts, 3)
    for prompt, completion in zip(prompts, said, strict=True):
        ids = objective.vocabulary.encode(prompt)
        for _ in range(3):
            ids.append(int(logits_of(ids)[-1].argmax()))
        assert completion == objective.vocabulary.decode(ids[len(prompt.split()) :]).strip()
    assert said == [ours.complete([prompt], 3)[0] for prompt in prompts]


def test_a_checksum_is_of_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    before = checksum_of([tmp_path])
    (tmp_path / ".hidden").write_text("2")
    assert checksum_of([tmp_path]) == before
    (tmp_path / "a").rename(tmp_path / "b")
    assert checksum_of([tmp_path]) != before


def test_facts_of_a_recogniser(tmp_path):
    class Ours:
        name = f"ctc {tmp_path}"

    tiny_exports.write_checkpoint(tmp_path, objective="text_lm", ema=False)
    step = tmp_path / "text" / "checkpoints" / "7"
    said = facts_of(Ours())
    assert (said["role"], said["name"]) == ("speech recogniser", f"ctc {tmp_path}")
    (step / "optimizer" / "more").write_text("2")
    assert facts_of(Ours()) == said
    (step / "params" / "more").write_text("2")
    other = facts_of(Ours())["checksum"]
    assert other != said["checksum"]
    # Its language model may come to be another one under the same name.
    Ours.fusion = Fusion(str(tmp_path / "lm.arpa"))
    sums = {other}
    for content in ("a", "b"):
        (tmp_path / "lm.arpa").write_text(content)
        sums.add(facts_of(Ours())["checksum"])
    assert len(sums) == 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2 of two layers with words for tokens, as `transformers` saves it."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: it comes with the extra 'parity'")
    transformers = pytest.importorskip("transformers", reason="transformers comes with the extra 'hf'")
    tokenizers = pytest.importorskip("tokenizers", reason="transformers comes with the extra 'hf'")
    path = tmp_path_factory.mktemp("gpt2")
    words = {word: i for i, word in enumerate(["<end>", "<unk>", "one", "two", "three"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<end>", eos_token="<end>", unk_token="<unk>"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=5, n_positions=12, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(path)
    return path


def test_scores_of_transformers_are_its_own_loss(folder):
    import torch

    lm = load_language_model(folder)
    ((log_prob, tokens), nothing) = lm.score(["one two three", ""])
    assert tokens == 3
    assert nothing == (0.0, 0)
    ids = torch.tensor([[0, 2, 3, 4]])
    with torch.inference_mode():
        loss = lm.lm._model(ids, labels=ids).loss
    assert log_prob == pytest.approx(-3 * float(loss), rel=1e-5)
    assert -log_prob / 3 == pytest.approx(math.log(5), abs=1), "a model nobody trained"
    assert lm.facts["version"].startswith("transformers ")
    json.dumps(lm.facts)


def test_completions_of_transformers(folder):
    lm = load_language_model(folder)
    said = lm.complete(["one two", "three"], 3)
    assert said == lm.complete(["one two", "three"], 3)
    assert all(len(text.split()) <= 3 for text in said)
    with pytest.raises(UserError, match="11 tokens and 3 more are longer than the language model's 12"):
        lm.complete(["one " * 10], 3)


def test_texts_longer_than_the_model_are_read_in_windows(folder):
    """20 tokens behind the first, a model of 12: 0 to 11, then 6 to 17 (12 to 17 count), then 9 to 20 (18 to 20)."""
    import torch

    lm = load_language_model(folder)
    text = "one two three two one three three one two two " * 2
    ids = lm.lm._ids(text)

    def by_hand(start, end, first):
        with torch.inference_mode():
            log_probs = lm.lm._model(torch.tensor([ids[start:end]])).logits[0].log_softmax(-1)
        return sum(float(log_probs[i - start - 1, ids[i]]) for i in range(first, end))

    ((log_prob, tokens),) = lm.score([text])
    assert tokens == 20
    assert log_prob == pytest.approx(by_hand(0, 12, 1) + by_hand(6, 18, 12) + by_hand(9, 21, 18), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "content"), [("model.safetensors", "torn"), ("config.json", "[]"), ("tokenizer.json", "{}")]
)
def test_a_damaged_folder_is_one_sentence(folder, tmp_path, name, content):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / name).write_text(content)
    with pytest.raises(UserError, match="broken' is no causal language model"):
        load_language_model(broken)


def test_a_folder_that_holds_no_language_model(tmp_path):
    with pytest.raises(UserError, match="no finished checkpoint"):
        load_language_model(tmp_path)
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(UserError, match="no causal language model"):
            load_language_model(tmp_path)
