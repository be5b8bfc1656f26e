"""Every setting of the project: frozen dataclasses, overrides by dotted key, a round trip to JSON."""

from spectron.config.overrides import build as build
from spectron.config.overrides import override as override
from spectron.config.schema import *  # noqa: F403
