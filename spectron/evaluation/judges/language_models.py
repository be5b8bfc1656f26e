"""Causal language models as judges: of `transformers`, from a local folder, and the text models trained here."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import spectron
from spectron.checkpoints.checkpoint import Checkpoint
from spectron.config import Experiment, TextLMConfig
from spectron.data.vocabulary import make_vocabulary
from spectron.evaluation.judges.outside import LanguageModel, facts, version_of
from spectron.models.decoder import Decoder, empty_cache
from spectron.objectives.text_lm import TextLM, shift_right
from spectron.types import Params, UserError
from spectron.utils.files import checksum_of

ROWS = 8  # ours: texts scored together
SHORTEST = 16  # ours: tokens of the smallest padded length; each power of two above is compiled once


def load_language_model(path: str | Path) -> LanguageModel:
    """The model of a `transformers` folder (config.json), or the `lm` of a checkpoint of ours. Raises UserError."""
    if (Path(path) / "config.json").is_file():
        return TransformersLM(path)
    return CheckpointLM(path)


class TransformersLM:
    """A causal LM of `transformers`, float32, on whatever torch finds.

    Every token of a text is scored, the first one behind the tokenizer's beginning-of-text token; where there is no
    such token the first is not scored. A text longer than the model is read in windows that overlap by half: every
    token behind the first window is scored with at least half a window before it. Raises UserError where a package is
    missing or the folder holds no such model.
    """

    def __init__(self, folder: str | Path):
        try:
            import torch
            import transformers
        except ImportError as error:
            raise UserError(f"{str(folder)!r} needs {error.name!r}; pip install 'spectron-jax[hf]' torch.") from error
        self._torch, auto = torch, transformers.AutoModelForCausalLM
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model = auto.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
        except Exception as error:  # what a damaged folder raises depends on what is damaged
            reason = str(error).split("\n", maxsplit=1)[0][:200]
            raise UserError(f"{str(folder)!r} is no causal language model of transformers ({reason}).") from error
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model.to(self._device)
        self._first = self._tokenizer.bos_token_id
        self._most = getattr(self._model.config, "max_position_embeddings", None) or 1 << 30
        settings = {"begins_with": self._tokenizer.bos_token, "dtype": "float32"}
        version = f"transformers {version_of('transformers')}"
        self.facts = facts("language model", str(folder), version, settings, checksum_of([Path(folder)]))

    def score(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """(Σ ln p, tokens scored) of each text, one by one: padding says nothing."""
        return [self._one(text) for text in texts]

    def _ids(self, text: str) -> list[int]:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids if self._first is None else [self._first, *ids]

    def _one(self, text: str) -> tuple[float, int]:
        torch, ids = self._torch, self._ids(text)
        total, scored = 0.0, 1  # tokens up to `scored` need no score any more
        with torch.inference_mode():
            while scored < len(ids):
                end = min(len(ids), self._most if scored == 1 else scored + self._most // 2)
                start = max(0, end - self._most)
                read = torch.tensor([ids[start:end]], device=self._device)
                log_probs = self._model(read).logits[0, :-1].float().log_softmax(-1)
                found = log_probs.gather(1, read[0, 1:, None]).double()
                total += float(found[scored - start - 1 :].sum())
                scored = end
        return total, max(len(ids) - 1, 0)

    def complete(self, prompts: Sequence[str], max_tokens: int) -> list[str]:
        """Greedy continuations, one by one, up to the end of the text or max_tokens."""
        return [self._continue(prompt, max_tokens) for prompt in prompts]

    def _continue(self, text: str, max_tokens: int) -> str:
        ids, end = self._ids(text), self._tokenizer.eos_token_id
        if not ids:
            return ""
        if len(ids) + max_tokens > self._most:
            raise UserError(
                f"A text of {len(ids)} tokens and {max_tokens} more are longer than the language model's {self._most}: "
                f"{text[:60]!r}…"
            )
        with self._torch.inference_mode():
            read = self._torch.tensor([ids], device=self._device)
            made = self._model.generate(
                read,
                attention_mask=self._torch.ones_like(read),
                max_new_tokens=max_tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=end if self._tokenizer.pad_token_id is None else self._tokenizer.pad_token_id,
            )
        return str(self._tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True)).strip()


class CheckpointLM:
    """The decoder of a checkpoint of ours, of a stage that trained it on text or with speech; causal, without a prefix.

    Every token of a text is scored, the first one behind sos. Raises UserError where there is no part `lm`.
    """

    def __init__(self, path: str | Path | Checkpoint):
        checkpoint = Checkpoint.open(path)
        self._params = jax.device_put(checkpoint.load(("lm",))["lm"])
        self._experiment = checkpoint.experiment
        self._vocabulary = make_vocabulary(checkpoint.experiment.data.vocabulary)
        settings = {"stage": checkpoint.stage, "step": checkpoint.step, "begins_with": "sos"}
        version = f"spectron {spectron.__version__}"
        self.facts = facts("language model", str(path), version, settings, checkpoint.facts["weights"])

    def score(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """(Σ ln p, tokens) of each text; words the vocabulary does not know are scored as its unknown token."""
        encoded = [self._vocabulary.encode(text) for text in texts]
        out: list[tuple[float, int]] = [(0.0, 0)] * len(texts)
        for size, members in _by_size(encoded).items():
            for first in range(0, len(members), ROWS):
                chosen = members[first : first + ROWS]
                text, lengths = _padded([encoded[i] for i in chosen], size)
                sums = jax.device_get(_log_probs(self._params, text, lengths, experiment=self._experiment))
                for row, i in enumerate(chosen):
                    out[i] = float(sums[row]), len(encoded[i])
        return out

    def complete(self, prompts: Sequence[str], max_tokens: int) -> list[str]:
        """Greedy continuations up to eos or max_tokens."""
        encoded = [self._vocabulary.encode(prompt) for prompt in prompts]
        out = [""] * len(prompts)
        for size, members in _by_size(encoded).items():
            for first in range(0, len(members), ROWS):
                chosen = members[first : first + ROWS]
                text, lengths = _padded([encoded[i] for i in chosen], size + max_tokens)
                made = jax.device_get(_complete(self._params, text, lengths, experiment=self._experiment))
                for row, i in enumerate(chosen):
                    start = len(encoded[i])
                    out[i] = self._vocabulary.decode(made[row, start : start + max_tokens].tolist()).strip()
        return out


def _by_size(encoded: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    """Padded length → the texts of that length; one without tokens has none to score but can be continued."""
    sizes: dict[int, list[int]] = {}
    for i, ids in enumerate(encoded):
        size = SHORTEST
        while size < len(ids):
            size *= 2
        sizes.setdefault(size, []).append(i)
    return dict(sorted(sizes.items()))


def _padded(texts: Sequence[Sequence[int]], size: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 [ROWS, size] and their lengths int32 [ROWS]."""
    text, lengths = np.zeros((ROWS, size), np.int32), np.zeros(ROWS, np.int32)
    for row, ids in enumerate(texts):
        text[row, : len(ids)], lengths[row] = ids, len(ids)
    return text, lengths


def _model(experiment: Experiment) -> tuple[Decoder, int]:
    """The decoder and its sos."""
    objective = TextLM(TextLMConfig(), experiment, None)
    return objective.lm, objective.vocabulary.sos_id


@functools.partial(jax.jit, static_argnames=("experiment",))
def _log_probs(params: Params, text: Any, lengths: Any, *, experiment: Experiment) -> Any:
    """Σ ln p of the first `lengths` tokens of each row of int32 [B, L], float32 [B]."""
    lm, sos = _model(experiment)
    mask = jnp.arange(text.shape[1])[None, :] < lengths[:, None]
    logits = lm.apply({"params": params}, shift_right(text, sos), mask, lengths * 0, method="score")
    found = jnp.take_along_axis(jax.nn.log_softmax(logits), text[..., None], axis=-1)[..., 0]
    return jnp.where(mask, found, 0.0).sum(axis=1)


@functools.partial(jax.jit, static_argnames=("experiment",))
def _complete(params: Params, text: Any, lengths: Any, *, experiment: Experiment) -> Any:
    """int32 [B, L] whose first `lengths` tokens are given → the rest written, likeliest token by token."""
    lm, sos = _model(experiment)
    rows, size = text.shape
    dtype, scan = jnp.dtype(experiment.model.compute_dtype), experiment.model.scan_layers
    cache = empty_cache(experiment.model.lm, rows, size, dtype, scan)

    def advance(i: Any, state: Any) -> Any:
        text, cache = state
        token = jnp.where(i > 0, text[:, jnp.maximum(i - 1, 0)], sos)
        embedded = lm.apply({"params": params}, token[:, None], method="embed")
        positions = jnp.full((rows, 1), i)
        hidden, cache = lm.apply({"params": params}, embedded, positions, None, cache)
        logits = lm.apply({"params": params}, hidden, method="logits")
        best = jnp.argmax(logits[:, 0], axis=-1).astype(jnp.int32)
        return text.at[:, i].set(jnp.where(i < lengths, text[:, i], best)), cache

    return jax.lax.fori_loop(0, size, advance, (text, cache))[0]
