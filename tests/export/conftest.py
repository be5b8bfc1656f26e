"""A tiny model that speaks: its checkpoint, and itself."""

import pytest
import tiny_speaker

from spectron.inference.api import Spectron


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_speaker.write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def live(checkpoint):
    return Spectron.from_checkpoint(checkpoint)
