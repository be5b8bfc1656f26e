"""The suites of `spectron evaluate`."""
