"""From recordings and texts to batches. Only tasks.py and converter.py import seqio and TensorFlow."""
