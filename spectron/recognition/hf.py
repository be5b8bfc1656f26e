"""Recognisers from elsewhere: speech recognition checkpoints of `transformers` in a local folder (needs torch)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from spectron.types import Hypothesis, UserError

RATE = 16_000
SHORTEST = 0.1  # ours: seconds that every front end takes which does not say what it needs
BEAMS = 1  # ours: generate() of sequence-to-sequence models is greedy, so that the score is of the text written


class TransformersRecogniser:
    """A CTC model (Wav2Vec2, HuBERT, …) or a sequence-to-sequence one (Whisper, …), on whatever torch finds.

    Raises UserError where a package is missing or the folder holds no such model.
    """

    def __init__(self, folder: str | Path):
        self._torch, transformers = _libraries()
        self.name = f"transformers {folder}"
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            self._ctc = type(config) in transformers.MODEL_FOR_CTC_MAPPING
            kind = transformers.AutoModelForCTC if self._ctc else transformers.AutoModelForSpeechSeq2Seq
            self._processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
            self._model = kind.from_pretrained(folder, local_files_only=True).eval()
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).split("\n", maxsplit=1)[0][:200]
            raise UserError(f"{str(folder)!r} is no speech recogniser of transformers ({reason}).") from error
        self._device = "cuda" if self._torch.cuda.is_available() else "cpu"
        self._model.to(self._device)
        self._least = least_samples(self._model.config)

    def transcribe(self, recordings: list[np.ndarray]) -> list[Hypothesis]:
        """int16 [S] each, at 16 kHz → a hypothesis each, in order; one by one: padding says nothing.

        What is too short for the model's convolutions is padded with silence to the least that they take.
        """
        return [self._one(samples) for samples in recordings]

    def _one(self, samples: np.ndarray) -> Hypothesis:
        if not len(samples):
            return Hypothesis("", 0.0, 0)
        audio = samples.astype(np.float32) / 32768
        audio = np.pad(audio, (0, max(0, self._least - len(audio))))
        inputs = self._processor(audio, sampling_rate=RATE, return_tensors="pt").to(self._device)
        with self._torch.inference_mode():
            return self._by_ctc(inputs) if self._ctc else self._by_generation(inputs)

    def _by_ctc(self, inputs: Any) -> Hypothesis:
        log_probs = self._model(**inputs).logits[0].float().log_softmax(-1)
        best, labels = log_probs.max(-1)
        path = labels.tolist()
        blank = self._processor.tokenizer.pad_token_id
        count = sum(label != blank and (i == 0 or path[i - 1] != label) for i, label in enumerate(path))
        text = self._processor.batch_decode([path])[0]
        return Hypothesis(" ".join(text.split()), float(best.sum()), count)

    def _by_generation(self, inputs: Any) -> Hypothesis:
        made = self._model.generate(
            **inputs, num_beams=BEAMS, do_sample=False, output_scores=True, return_dict_in_generate=True
        )
        scores = self._model.compute_transition_scores(made.sequences, made.scores, normalize_logits=True)
        text = self._processor.batch_decode(made.sequences, skip_special_tokens=True)[0]
        return Hypothesis(" ".join(text.split()), float(scores[0].sum()), int(scores.shape[1]))


def least_samples(config: Any) -> int:
    """How many samples make one frame: what a stack of convolutions needs, or SHORTEST."""
    kernels, strides = getattr(config, "conv_kernel", None), getattr(config, "conv_stride", None)
    if not kernels or not strides:
        return round(SHORTEST * RATE)
    size = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        size = (size - 1) * stride + kernel
    return size


def _libraries() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(
            f"A transformers checkpoint needs the package {error.name!r}; pip install 'spectron-jax[hf]' torch."
        ) from error
    return torch, transformers
