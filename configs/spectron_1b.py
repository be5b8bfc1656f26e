"""The paper's Spectron for spoken question answering: the 600 M Conformer of spectron_350m.py with a 1 B LM.

    spectron compile configs/spectron_1b.py --topology v5e:16x16 --mesh data=16,fsdp=16
    spectron train configs/spectron_1b.py --workdir DIR --set data.root=DIR data.vocabulary.path=FILE \\
        mesh='[["data",16],["fsdp",16]]'

Everything else is as in spectron_350m.py. Time and result: not trained yet.
"""

import runpy
from pathlib import Path

from spectron.config import Experiment, LMConfig

BASE = runpy.run_path(str(Path(__file__).with_name("spectron_350m.py")))

# 1 B parameters (arXiv 2305.15255). Ours: the embedding is tied and counted among them (393 M), heads of 128.
LM = LMConfig(dim=1536, num_layers=24, num_heads=12, num_kv_heads=12, ff_dim=3456, tie_embeddings=True)


def experiment() -> Experiment:
    """As spectron_350m with another LM."""
    return BASE["experiment"](LM, "spectron_1b", 256)
