"""From recordings and texts to batches. The only folder that imports seqio, tfds and tensorflow (tasks.py, converter.py)."""
