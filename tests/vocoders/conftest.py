"""The audio tests' signals."""

from audio.conftest import clips as clips
