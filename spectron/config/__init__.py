"""Every setting of the project: frozen dataclasses, overrides by dotted key, a round trip to JSON."""

from spectron.config.checks import check_settings as check_settings
from spectron.config.loading import from_json as from_json
from spectron.config.loading import load_experiment as load_experiment
from spectron.config.loading import load_loop as load_loop
from spectron.config.loading import override as override
from spectron.config.overrides import Choice as Choice
from spectron.config.overrides import as_dict as as_dict
from spectron.config.overrides import build as build
from spectron.config.overrides import element_name as element_name
from spectron.config.overrides import to_json as to_json
from spectron.config.registry import Registry as Registry
from spectron.config.schema import *  # noqa: F403
