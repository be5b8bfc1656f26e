"""Checkpoints for other programs: an export's folder, its formats, and the way back."""
