"""What `spectron evaluate` runs, and their pages."""
