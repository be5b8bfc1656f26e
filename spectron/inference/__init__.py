"""Decoding, the engine, the Python API and batch inference. Imports no evaluation."""
