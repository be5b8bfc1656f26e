"""From recordings and texts to batches. Only the folder seqio/ imports seqio and TensorFlow."""
