"""TFDS builders on Beam that need no ffmpeg: import a module to register its builder."""
