"""Causal language models of `transformers`: scores and completes texts as TextDecoder does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spectron.types import UserError


class TransformersDecoder:
    """A causal LM of `transformers` in float32, on the GPU if torch finds one.

    Every token of a text is scored, the first one after the tokenizer's beginning-of-text token; without such a token
    the first one is not scored. A text longer than the model's context is read in windows that overlap by half: every
    token after the first window has at least half a window of context. Raises UserError if a package is missing or
    the folder holds no such model.
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
        self.settings = {"begins_with": self._tokenizer.bos_token, "dtype": "float32"}

    def score(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """(Σ ln p, tokens scored) of each text, one at a time, without padding."""
        return [self._score(text) for text in texts]

    def _ids(self, text: str) -> list[int]:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids if self._first is None else [self._first, *ids]

    def _score(self, text: str) -> tuple[float, int]:
        torch, ids = self._torch, self._ids(text)
        total, scored = 0.0, 1  # tokens before `scored` have their score
        with torch.inference_mode():
            while scored < len(ids):
                end = min(len(ids), self._most if scored == 1 else scored + self._most // 2)
                start = max(0, end - self._most)
                read = torch.tensor([ids[start:end]], device=self._device)
                log_probs = self._model(read).logits[0, :-1].float().log_softmax(-1)
                token_log_probs = log_probs.gather(1, read[0, 1:, None]).double()
                total += float(token_log_probs[scored - start - 1 :].sum())
                scored = end
        return total, max(len(ids) - 1, 0)

    def complete(self, prompts: Sequence[str], max_tokens: int) -> list[str]:
        """Greedy continuations, one at a time, up to the end-of-text token or max_tokens."""
        return [self._continue(prompt, max_tokens) for prompt in prompts]

    def _continue(self, text: str, max_tokens: int) -> str:
        ids, end = self._ids(text), self._tokenizer.eos_token_id
        if not ids:
            return ""
        if len(ids) + max_tokens > self._most:
            raise UserError(
                f"A text of {len(ids)} tokens and {max_tokens} more are longer than the language model's {self._most}: "
                f"{text[:60]!r}…; shorten it or lower --max-tokens."
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
