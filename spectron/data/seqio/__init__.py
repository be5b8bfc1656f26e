"""Reading through seqio and TensorFlow; removable as a folder: every other reader works without it."""
