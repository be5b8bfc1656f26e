"""Noisy student training: train, label the pool, filter, train again."""
