"""Flax modules. Params are float32 and carry logical axis names; `compute_dtype` decides the rest."""
