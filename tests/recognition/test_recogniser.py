"""Recognisers behind one interface: ours (whatever the batch), a recipe's, and those of transformers."""

import dataclasses
import functools
import importlib.util
import json
import pickle
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import student_run
from tiny_exports import write_checkpoint

from spectron.checkpoints.checkpoint import Checkpoint
from spectron.checkpoints.manager import Checkpointer, make_meta
from spectron.config import CTCConfig, SentencePieceConfig
from spectron.data.vocabulary import make_pieces, make_vocabulary
from spectron.objectives.ctc import CTC
from spectron.parallel import sharding
from spectron.recognition.ctc_search import Fusion
from spectron.recognition.hf import min_samples
from spectron.recognition.recogniser import CTCRecogniser, bucket, load_recogniser, write_recipe
from spectron.training.step import make_program
from spectron.types import Batch, Statistics, UserError

STATISTICS = Statistics(np.full(16, -6, np.float32), np.full(16, 3, np.float32))


def fresh(experiment=None, fusion=None):
    """A CTC model that nobody trained."""
    experiment = experiment or student_run.experiment("x", "labelled", 1)
    objective = CTC(CTCConfig(), experiment, STATISTICS)
    none = np.zeros((1, 1), np.int32)
    batch = Batch(
        samples=np.zeros((1, 1600), np.int16),
        num_samples=none[0] + 1600,
        prompt_samples=none[0],
        text=none,
        text_mask=none > 0,
        text_loss_mask=none > 0,
        token_ends=none,
    )
    params = sharding.unbox(jax.jit(objective.init)(jax.random.key(1), batch))
    params["ctc_head"] = jax.tree.map(lambda x: x * 5, params["ctc_head"])
    return CTCRecogniser(jax.device_get(params), experiment, STATISTICS, fusion)


@pytest.fixture(scope="module")
def recogniser():
    return fresh()


def speech(seconds, seed=0):
    return np.random.default_rng(seed).integers(-9000, 9000, round(16000 * seconds)).astype(np.int16)


def test_a_recording_alone_is_heard_as_in_a_batch(recogniser):
    recordings = [
        speech(seconds, i) for i, seconds in enumerate((1.0, 5.3, 0.3, 3.99, 1.0, 0.0, 0.7, 2.0, 1.1, 1.2, 1))
    ]
    together = recogniser.emissions(recordings)
    for i in (1, 2, 3, 10):
        (alone,) = recogniser.emissions([recordings[i]])
        np.testing.assert_allclose(together[i], alone, atol=2e-5)
    assert [len(e) for e in together] == [recogniser.encoder.output_length(len(r)) for r in recordings]
    np.testing.assert_allclose(np.exp(together[0]).sum(-1), 1, rtol=1e-5)
    heard = recogniser.transcribe(recordings)
    assert heard == recogniser.transcribe(recordings)
    assert heard[5] == ("", 0.0, 0)
    assert any(h.text for h in heard)


def test_one_program_per_bucket():
    assert bucket(1, 16000) == bucket(64000, 16000) == 64000
    assert bucket(64001, 16000) == 96000
    assert len({bucket(n, 16000) for n in range(1, 16000 * 36, 997)}) == 7


def save(folder, recogniser, statistics=STATISTICS):
    """The checkpoint that training would have written."""
    experiment = recogniser.experiment
    stage = experiment.stage("ctc")
    mesh = sharding.make_mesh(())
    with jax.set_mesh(mesh):
        none = np.zeros((8, 24), np.int32)
        batch = Batch(
            samples=np.zeros((8, 1600), np.int16),
            num_samples=none[:, 0],
            prompt_samples=none[:, 0],
            text=none,
            text_mask=none > 0,
            text_loss_mask=none > 0,
            token_ends=none,
        )
        program = make_program(experiment, stage, STATISTICS, [batch], mesh)
        state = dataclasses.replace(program.init(), params=recogniser.params)
        with Checkpointer(folder / "checkpoints") as saver:
            saver.save(1, state, make_meta(experiment, "ctc", statistics))


def test_checkpoints_and_recipes_are_loaded_by_their_folder(tmp_path, recogniser):
    save(tmp_path / "run" / "ctc", fresh())
    recordings = [speech(1.0)]
    wanted = recogniser.transcribe(recordings)
    found = load_recogniser(tmp_path / "run")
    assert found.transcribe(recordings)[0].text == wanted[0].text
    assert "run" in found.name
    recipe = {"checkpoint": str(tmp_path / "run"), "fusion": dataclasses.asdict(Fusion())}
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "recogniser.json").write_text(json.dumps(recipe))
    assert load_recogniser(tmp_path / "g").transcribe(recordings)[0].text == wanted[0].text
    made = pickle.loads(pickle.dumps(functools.partial(load_recogniser, str(tmp_path / "g"))))()
    assert made.transcribe(recordings)[0].text == wanted[0].text
    (tmp_path / "g" / "recogniser.json").write_text(json.dumps(recipe | {"fusion": {"lm_wieght": 1.0}}))
    with pytest.raises(UserError, match="lm_weight"):
        load_recogniser(tmp_path / "g")
    (tmp_path / "g" / "recogniser.json").write_text("{")
    with pytest.raises(UserError, match=r"recogniser\.json"):
        load_recogniser(tmp_path / "g")


def test_a_recogniser_and_what_it_names_can_be_moved_together(tmp_path, recogniser, monkeypatch):
    save(tmp_path / "here" / "run" / "ctc", fresh())
    checkpoint = Checkpoint.open(tmp_path / "here" / "run").folder
    (tmp_path / "here" / "g").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_recipe(Path("g"), checkpoint, Fusion(lm="lm.arpa", lm_weight=0.5))
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    loaded = load_recogniser(tmp_path / "there" / "g")
    assert loaded.fusion == Fusion(lm=str(tmp_path / "there" / "g" / ".." / "lm.arpa"), lm_weight=0.5)
    recordings = [speech(1.0)]
    greedily = load_recogniser(tmp_path / "there" / "g", Fusion())
    assert greedily.transcribe(recordings)[0].text == recogniser.transcribe(recordings)[0].text


def test_what_is_no_recogniser_is_said(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load_recogniser(tmp_path / "nowhere")
    write_checkpoint(tmp_path / "text", objective="text_lm")
    with pytest.raises(UserError, match="ctc_head"):
        load_recogniser(tmp_path / "text")
    save(tmp_path / "deaf" / "ctc", fresh(), statistics=None)
    with pytest.raises(UserError, match="statistics"):
        load_recogniser(tmp_path / "deaf")


def test_the_command_measures_a_checkpoint_and_says_what_is_wrong(tmp_path, capsys):
    pytest.importorskip("jiwer")
    from spectron.cli import main

    save(tmp_path / "run" / "ctc", fresh())
    student_run.write_corpus(tmp_path, "corpus", ["1"], 3)
    flags = ["evaluate", "recognition", "--recogniser", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    assert main([*flags, "--task", f"manifest:{tmp_path / 'corpus'}", "--limit", "2"]) == 0
    assert "| greedy |" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (figure,) = results["tables"][0]["rows"]["greedy"].values()
    assert figure["n"] == 2
    assert 0 <= figure["low"] <= figure["high"]
    assert len((tmp_path / "out" / "items.jsonl").read_text().splitlines()) == 2
    assert main([*flags, "--task", "unheard"]) == 2
    assert "'unheard'" in capsys.readouterr().err
    assert main([*flags, "--task", f"manifest:{tmp_path / 'corpus'}", "--lm", str(tmp_path / "none.arpa")]) == 2
    said = capsys.readouterr().err
    assert "none.arpa" in said or "flashlight-text" in said
    assert main(["noisy-student", str(tmp_path / "none.py"), "--workdir", str(tmp_path / "w")]) == 2
    assert "none.py" in capsys.readouterr().err


def test_the_command_labels_shards(tmp_path, capsys):
    pytest.importorskip("array_record")
    from spectron.cli import main
    from spectron.corpora.labels import labels_path, read_labels
    from spectron.data.shards import Utterance, encode_flac, shard_path, write_shard

    save(tmp_path / "run" / "ctc", fresh())
    samples = np.random.default_rng(0).integers(-3000, 3000, 16_000).astype(np.int16)
    write_shard(shard_path(tmp_path / "s", 0), [Utterance("a", "1", "", encode_flac(samples, 16_000), 16_000, 16_000)])
    flags = ["data", "label", str(tmp_path / "s"), "--out", str(tmp_path / "labels"), "--runner", "inline"]
    assert main([*flags, "--recogniser", str(tmp_path / "run")]) == 0
    (found,) = read_labels(labels_path(tmp_path / "labels", 0))
    (expected,) = load_recogniser(tmp_path / "run").transcribe([samples])
    assert (found.id, found.text, found.tokens) == ("a", expected.text, expected.tokens)
    assert "checkpoints" in found.labelled_by, "a step, not a run that goes on"
    capsys.readouterr()
    assert main([*flags, "--recogniser", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("flashlight") is None, reason="flashlight-text is not installed")
def test_pieces_are_searched_too(tmp_path):
    """Words of pieces, that carry their spaces: a recording that surely says two words is heard as them."""
    from spectron.recognition import ngram
    from spectron.recognition.ctc_search import WordSearch

    texts = ["THE CAT SAT", "THE DOG RAN", "A CAT RAN"] * 5
    (tmp_path / "pieces.model").write_bytes(make_pieces(texts, 24))
    assert make_pieces(texts, 24) == (tmp_path / "pieces.model").read_bytes()
    vocabulary = make_vocabulary(SentencePieceConfig(path=str(tmp_path / "pieces.model")))
    (tmp_path / "lm.arpa").write_bytes(ngram.estimate(texts, 2).arpa())
    ids = vocabulary.encode("THE CAT RAN")
    log_probs = np.full((2 * len(ids), vocabulary.size), -8.0, np.float32)
    log_probs[np.arange(len(ids)) * 2, ids] = -0.01
    log_probs[1::2, 0] = -0.01
    found = WordSearch(Fusion(str(tmp_path / "lm.arpa"), 0.3), vocabulary)(log_probs)
    assert (found.text, found.tokens) == ("THE CAT RAN", len(ids))


def test_too_many_pieces_are_said():
    with pytest.raises(UserError, match="pieces"):
        make_pieces([], 24)


# Of transformers.

needs_transformers = pytest.mark.skipif(
    not (importlib.util.find_spec("transformers") and importlib.util.find_spec("torch")),
    reason="transformers and torch are not installed",
)


@needs_transformers
@pytest.mark.filterwarnings("ignore")
def test_a_ctc_model_of_transformers_transcribes(tmp_path):
    import torch
    import transformers

    torch.manual_seed(0)
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "C"]
    (tmp_path / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))
    extractor = transformers.Wav2Vec2FeatureExtractor(feature_size=1, sampling_rate=16000, do_normalize=True)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(tmp_path)
    config = transformers.Wav2Vec2Config(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_stride=(10, 16), conv_kernel=(10, 16), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, pad_token_id=0,
    )  # fmt: skip
    transformers.Wav2Vec2ForCTC(config).save_pretrained(tmp_path)
    found = load_recogniser(tmp_path)
    first, second, nothing = found.transcribe([speech(0.5), speech(1.0, 1), speech(0)])
    assert found.transcribe([speech(1.0, 1)])[0] == second
    assert np.isfinite(first.score) and first.score < 0
    for size in (1, 100, 159, 160, 161):  # 160 samples are one frame of this one
        (short,) = found.transcribe([speech(size / 16_000)])
        assert np.isfinite(short.score), f"{size} samples are enough"
    assert nothing == ("", 0.0, 0)
    assert str(tmp_path) in found.name


def test_the_least_that_a_model_of_convolutions_hears():
    wav2vec2 = types.SimpleNamespace(conv_kernel=(10, 3, 3, 3, 3, 2, 2), conv_stride=(5, 2, 2, 2, 2, 2, 2))
    assert min_samples(wav2vec2) == 400
    assert min_samples(types.SimpleNamespace()) == 1600


@needs_transformers
@pytest.mark.filterwarnings("ignore")
def test_a_sequence_to_sequence_model_of_transformers_transcribes(tmp_path):
    import torch
    import transformers

    torch.manual_seed(0)
    words = ["<|endoftext|>", "<|startoftranscript|>", *"abcdefgh"]
    tokenizer_file = {str(word): i for i, word in enumerate(words)}
    (tmp_path / "vocab.json").write_text(json.dumps(tokenizer_file))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.WhisperTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    transformers.WhisperProcessor(extractor, tokenizer).save_pretrained(tmp_path)
    config = transformers.WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=16, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        max_source_positions=50, max_target_positions=12, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=1, suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        max_length=8, decoder_start_token_id=1, eos_token_id=0, pad_token_id=0, bos_token_id=0
    )
    model.save_pretrained(tmp_path)
    found = load_recogniser(tmp_path)
    first, second = found.transcribe([speech(0.5), speech(0.9, 1)])
    assert np.isfinite(first.score) and first.score < 0 and first.tokens > 0
    assert found.transcribe([speech(0.9, 1)])[0] == second


@needs_transformers
@pytest.mark.filterwarnings("ignore")
def test_a_folder_that_is_no_speech_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="not a speech recogniser"):
        load_recogniser(tmp_path)
