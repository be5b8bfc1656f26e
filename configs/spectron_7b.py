"""A larger Spectron: the 600 M Conformer of spectron_350m.py with a 7 B LM (ours; the paper has none of this size).

    spectron compile configs/spectron_7b.py --topology v5p:8x8x8 --mesh data=8,fsdp=64
    spectron compile configs/spectron_7b.py --topology v5e:16x16 --slices 2 --mesh replica=2,data=4,fsdp=64

Everything else is as in spectron_350m.py. Time and result: not trained yet.
"""

import runpy
from pathlib import Path

from spectron.config import Experiment, LMConfig

BASE = runpy.run_path(str(Path(__file__).with_name("spectron_350m.py")))

# Ours, the usual shape of the size: heads of 128, eight for keys and values, a gated feed-forward of 3.5 widths.
LM = LMConfig(dim=4096, num_layers=28, num_heads=32, num_kv_heads=8, ff_dim=14_336, tie_embeddings=True)


def experiment() -> Experiment:
    """As spectron_350m with another LM."""
    return BASE["experiment"](LM, "spectron_7b", 512)
