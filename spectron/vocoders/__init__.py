"""Vocoders: log-mel spectrogram → waveform."""
