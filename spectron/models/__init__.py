"""Flax modules. Params are float32 and carry logical axis names; `compute_dtype` decides the rest."""

from spectron.models.conformer import Conformer as Conformer  # importing an encoder registers it
