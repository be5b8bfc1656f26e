"""Spectron in JAX: a language model that listens and speaks (arXiv 2305.15255)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectron.inference.api import Spectron as Spectron

__version__ = "0.1.0"
__all__ = ["Spectron", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Spectron":  # on demand: the rest of the package is used without JAX's decoding too
        return import_module("spectron.inference.api").Spectron
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
