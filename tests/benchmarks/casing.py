"""Pieces per word of transcripts in capitals, and how many are too long, with each normaliser.

    python tests/benchmarks/casing.py --transcripts FILE.trans.txt.gz … --texts TEXT … [--pieces 16000]

TEXTs are files of ordinary text, from which the SentencePiece model is made, one sentence or paragraph per line.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spectron.config import SentencePieceConfig
from spectron.data.normalising import NORMALISERS, make_normaliser
from spectron.data.vocabulary import make_pieces, make_vocabulary, remember
from spectron.utils.text_files import read_lines


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--transcripts", type=Path, nargs="+", required=True)
    parser.add_argument("--texts", type=Path, nargs="+", required=True)
    parser.add_argument("--pieces", type=int, default=16_000)
    parser.add_argument("--max-tokens", type=int, default=80)
    arguments = parser.parse_args()
    texts = (line for path in arguments.texts for _, line in read_lines(path) if line.strip())
    config = SentencePieceConfig(remember(make_pieces(texts, arguments.pieces)))
    lines = [" ".join(line.split()[1:]) for path in arguments.transcripts for _, line in read_lines(path)]
    words = sum(len(line.split()) for line in lines)
    print(f"{len(lines):,} transcripts of {words:,} words\n")
    print(f"| normaliser | pieces per word | more than {arguments.max_tokens} tokens |\n|---|---:|---:|")
    for name in NORMALISERS:
        normalise = make_normaliser(name, config)
        counts = make_vocabulary(config).counts([normalise(line) for line in lines])
        too_long = (counts + 1 > arguments.max_tokens).mean()
        print(f"| {name} | {counts.sum() / words:.2f} | {100 * too_long:.2f} % |")


if __name__ == "__main__":
    main()
