"""Evaluation on the counting world: its own judges of digits and voices, and the counting suite."""
