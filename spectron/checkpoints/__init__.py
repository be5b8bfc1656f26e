"""Training checkpoints and exported models: written whole, checked when read."""
