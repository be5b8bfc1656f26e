"""Spectron in JAX: a language model that listens and speaks (arXiv 2305.15255)."""

__version__ = "0.1.0"
