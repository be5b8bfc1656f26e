"""Which class implements which setting: the seams at which encoders, connectors, objectives and vocoders plug in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=type)


class Registry(Generic[T]):
    """Implementations by the class of their config.

        encoders: Registry[type[SpeechEncoder]] = Registry("speech encoder")

        @encoders.register(ConformerConfig)
        class Conformer(SpeechEncoder): ...

        encoders[config]  # Conformer, where config is a ConformerConfig

    A class defined outside this package registers itself in the same way, when its module is imported.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._classes: dict[type, Any] = {}

    def register(self, config: type) -> Callable[[T], T]:
        """A class decorator: the class implements settings of the type `config`."""

        def add(implementation: T) -> T:
            self._classes[config] = implementation
            return implementation

        return add

    def __getitem__(self, config: Any) -> T:
        """The class that implements a setting. Raises TypeError if none was registered."""
        for base in type(config).__mro__:
            if base in self._classes:
                return self._classes[base]
        raise TypeError(f"no {self.what} is registered for {type(config).__name__}")
