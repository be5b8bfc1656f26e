"""Training checkpoints and exported models: written whole, checked when they are opened."""

from spectron.checkpoints.checkpoint import Checkpoint as Checkpoint
