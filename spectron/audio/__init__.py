"""Waveforms in and out: files, log-mel on the device, and Griffin-Lim to listen with."""
