"""What is counted, figures with intervals, and their tables."""
