"""Training checkpoints and exported models: written whole, checked when they are opened."""
