"""Evaluation suites, the judges they ask, and the report they write."""
