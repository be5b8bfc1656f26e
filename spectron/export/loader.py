"""An exported Spectron, run by jax, numpy and safetensors alone: python loader.py PROMPT.wav ANSWER.wav."""

import collections
import hashlib
import io
import json
import sys
import wave
from pathlib import Path

import jax.export
import numpy as np
from safetensors.numpy import load_file

HERE, SHORTEST, BLOCK, NO_LIMIT = Path(__file__).resolve().parent, 0.3, 64, np.int32(2**31 - 1)
sys.path.append(str(HERE))  # flatbuffers, which jax reads exports with, where none is installed
Answer = collections.namedtuple("Answer", "text frames samples")  # frames: log-mel float32 [T, F]; samples: int16 [S]


class Model:
    """A folder written by `spectron export --format stablehlo`. Wrong input raises ValueError."""

    def __init__(self, folder=HERE):
        self.folder, facts = Path(folder), json.loads((Path(folder) / "spectron.json").read_text("utf-8"))
        for name, file in facts["files"].items():
            if hashlib.sha256((self.folder / name).read_bytes()).hexdigest() != file["sha256"]:
                raise ValueError(f"{name} is not the file that was exported: copy the folder again.")
        self.table = json.loads((self.folder / "tokenizer.json").read_text("utf-8"))
        self.rate, self.hop = (facts["features"][key] for key in ("sample_rate", "hop"))
        self.tokens, self.seconds = (facts["experiment"]["data"][key] for key in ("max_tokens", "max_prompt_seconds"))
        self.prefill, self.finish, self.waveform = (self.function(name) for name in ("prefill", "finish", "waveform"))
        self.step, prepare = self.function("step", donate_argnums=1), self.function("prepare")
        self.weights = prepare(load_file(self.folder / "weights.safetensors"))

    def function(self, name, **options):
        """One of the exported functions; it is compiled at its first call."""
        path = self.folder / "stablehlo" / f"{name}.bin"
        return jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call, **options)

    def generate(self, samples, seed=0, number=0):
        """The answer to one prompt, int16 [S] at the model's rate; it draws from fold_in(seed, number)."""
        return self.generate_all([samples], seed, [number])[0]

    def generate_all(self, prompts, seed=0, numbers=()):
        """Answers to several prompts in one batch; each draws from its own number (default: its index)."""
        slots = [self.read(*each, seed) for each in zip(prompts, numbers or range(len(prompts)), strict=True)]
        state = {name: jax.numpy.concatenate([slot[name] for slot in slots]) for name in slots[0]}
        while not state["done"].all():
            state = self.step(self.weights, state, NO_LIMIT)
        out = jax.device_get(self.finish(self.weights, state))
        frames = [each[:size] for each, size in zip(out["frames"], out["num_frames"], strict=True)]
        speech = map(self.speech, frames)  # one by one: with threads of our own, jax 0.11.2 can hang on a CPU
        return list(map(Answer, map(self.text, out["text"].tolist()), frames, speech))

    def read(self, samples, number, seed):
        """The state of a slot that has read a prompt, padded to one of four lengths; no token is forced (-1)."""
        longest, size, one = round(self.seconds * self.rate), len(samples), np.ones(1, np.int32)
        if not SHORTEST <= size / self.rate <= self.seconds:
            raise ValueError(f"A prompt lasts {size / self.rate:.2f} s: give {SHORTEST:g} to {self.seconds:g} s.")
        room = next(n for k in (1, 2, 3, 4) if (n := min(longest, -(-longest * k // 4 // self.hop) * self.hop)) >= size)
        padded, forced = np.pad(samples, (0, room - size))[None], np.full((1, self.tokens), -1, np.int32)
        return self.prefill(self.weights, padded, size * one, np.uint32(seed), number * one, forced)

    def speech(self, frames):
        """Log-mel [T, F] → samples int16 [T · hop]."""
        size, padded = len(frames), np.pad(frames, ((0, -len(frames) % BLOCK), (0, 0)))
        return np.asarray(self.waveform(padded[None], np.array([size], np.int32)))[0, : size * self.hop]

    def text(self, ids):
        """Token ids → text, to the first eos."""
        table, special = self.table, self.table["special"]
        text = ids[: [*ids, special["eos"]].index(special["eos"])]
        pieces = (table["pieces"][i] for i in text if i not in (special["pad"], special["sos"]))
        parts = (bytes([piece]) if isinstance(piece, int) else piece.encode() for piece in pieces)
        text = table["join"].encode().join(parts).decode(errors="replace")
        return (text.removeprefix(table["space"]) if table["strip"] else text).replace(table["space"] or " ", " ")


def plain(content):
    """A WAV file whose header is of the extensible kind with the older header, which every `wave` module reads."""
    if content[12:22] == b"fmt \x28\0\0\0\xfe\xff" and content[44:46] == b"\x01\0":  # 1 is PCM
        return content[:16] + b"\x10\0\0\0\x01\0" + content[22:36] + content[60:]
    return content


def main(prompt, answer):
    """WAV to WAV; prints the text."""
    model = Model()
    with open(prompt, "rb") as file:
        content = plain(file.read())
    with wave.open(io.BytesIO(content)) as file:
        kind = f"{file.getframerate()} Hz, channels: {file.getnchannels()}, bits: {8 * file.getsampwidth()}"
        if kind != (wanted := f"{model.rate} Hz, channels: 1, bits: 16"):
            raise ValueError(f"{prompt} has {kind}; give {wanted}.")
        made = model.generate(np.frombuffer(file.readframes(file.getnframes()), "<i2"))
    with wave.open(answer, "wb") as file:
        file.setparams((1, 2, model.rate, 0, "NONE", ""))
        file.writeframes(made.samples.astype("<i2"))
    print(made.text)


if __name__ == "__main__":
    try:
        if len(sys.argv) != 3:
            raise ValueError("give two names: python loader.py PROMPT.wav ANSWER.wav.")
        main(*sys.argv[1:])
    except (ValueError, OSError, EOFError, wave.Error) as error:
        print(f"loader: {error}", file=sys.stderr)
        sys.exit(2)
