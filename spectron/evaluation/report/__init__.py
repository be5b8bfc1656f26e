"""HTML pages of the suites and of `spectron data inspect`."""
