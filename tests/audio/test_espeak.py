import time

import numpy as np
import pytest

pytest.importorskip("espeakng_loader", reason="the extra 'synth' is not installed")

from spectron.audio import espeak
from spectron.types import UserError


def test_the_same_call_gives_the_same_samples():
    once = synthesise_twice = espeak.synthesise("seven", "en-us+f4")
    several = espeak.synthesise_all([espeak.Reading((w,), "en-us+f4") for w in ("two", "seven", "five")])
    assert once.dtype == np.int16
    assert 0.2 < len(once) / 16_000 < 1.5
    assert np.abs(once).max() > 2000
    np.testing.assert_array_equal(several[1][0], synthesise_twice)
    assert len(several[0][0]) != len(several[2][0])


@pytest.mark.parametrize("voice", ["en-us+f2", "en-029+f5", "en-gb-x-rp+f3"])
def test_breath_is_the_same_in_another_second(voice):
    """espeak draws breathy voices' noise from a generator that it seeds with the time."""
    once = espeak.synthesise("two", voice)
    time.sleep(1.1)
    np.testing.assert_array_equal(espeak.synthesise("two", voice), once)


def test_rate_pitch_and_voice_matter():
    plain = espeak.synthesise("seven")
    assert len(espeak.synthesise("seven", rate=220)) < len(plain)
    for other in (espeak.synthesise("seven", pitch=80), espeak.synthesise("seven", "en-us+m3")):
        assert len(other) != len(plain) or not np.array_equal(other, plain)


@pytest.mark.parametrize("voice", ["en-us+nobody", "en-gb"])
def test_an_unknown_voice_is_named(voice):
    with pytest.raises(UserError, match=voice.rpartition("+")[2]):
        espeak.synthesise("seven", voice)
