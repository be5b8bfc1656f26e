"""Log-mel to waveform."""
