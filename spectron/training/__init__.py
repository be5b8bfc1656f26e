"""One training loop for every objective: stages, steps, optimizers, metrics, validation."""
