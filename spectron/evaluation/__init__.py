"""Evaluation: suites that measure a checkpoint, and `spectron score` for other systems' outputs."""
