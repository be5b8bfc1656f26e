"""Ahead-of-time compilation of a training step for a TPU that is not there: memory, FLOPs, collectives."""
