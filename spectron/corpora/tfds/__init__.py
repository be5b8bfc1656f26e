"""TFDS builders on Beam that work without ffmpeg. Importing a module registers its builder."""
