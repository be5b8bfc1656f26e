"""Recognisers from checkpoints of `transformers` in a local folder (needs torch)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from spectron.types import Hypothesis, UserError

RATE = 16_000  # Hz
MIN_SECONDS = 0.1  # ours: shortest input of models whose config does not state their convolutions
BEAMS = 1  # ours: sequence-to-sequence models decode greedily, so that the score is the text's own log-probability


class TransformersRecogniser:
    """A CTC model (Wav2Vec2, HuBERT, …) or a sequence-to-sequence model (Whisper, …), on the GPU if there is one.

    Raises UserError if a package is missing or the folder does not contain such a model.
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
            raise UserError(
                f"{str(folder)!r} is not a speech recogniser of transformers ({reason}); give another folder."
            ) from error
        self._device = "cuda" if self._torch.cuda.is_available() else "cpu"
        self._model.to(self._device)
        self._min_samples = min_samples(self._model.config)

    def transcribe(self, recordings: list[np.ndarray]) -> list[Hypothesis]:
        """int16 [S] each at 16 kHz → a hypothesis each, in order. No batches, so padding has no effect.

        Recordings that are too short for the model's convolutions are padded with silence.
        """
        return [self._one(samples) for samples in recordings]

    def _one(self, samples: np.ndarray) -> Hypothesis:
        if not len(samples):
            return Hypothesis("", 0.0, 0)
        audio = samples.astype(np.float32) / 32768
        audio = np.pad(audio, (0, max(0, self._min_samples - len(audio))))
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
        generated = self._model.generate(
            **inputs, num_beams=BEAMS, do_sample=False, output_scores=True, return_dict_in_generate=True
        )
        scores = self._model.compute_transition_scores(generated.sequences, generated.scores, normalize_logits=True)
        text = self._processor.batch_decode(generated.sequences, skip_special_tokens=True)[0]
        return Hypothesis(" ".join(text.split()), float(scores[0].sum()), int(scores.shape[1]))


def min_samples(config: Any) -> int:
    """The shortest input in samples: the receptive field of the convolutions, or MIN_SECONDS if they are not stated."""
    kernels = getattr(config, "conv_kernel", None)
    strides = getattr(config, "conv_stride", None)
    if not kernels or not strides:
        return round(MIN_SECONDS * RATE)
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
