"""Quantities measured from texts, spectrograms and embeddings, each with its definition and interval."""
