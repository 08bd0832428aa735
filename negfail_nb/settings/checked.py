"""What all settings share: fields with help texts and bounds, checked when a settings object is
made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any

from negfail_nb.secrets import redact


def option(default: Any, help: str, **metadata: Any) -> Any:
    """Return a dataclass field with a help text and whatever else is known of it.

    Parameters
    ----------
    default, help
        The value if nothing else is given; what forms, docs and the command line say.
    **metadata
        ``low`` and ``high``, or ``choices``: what may be given. ``items``: the type of the items
        of a tuple. ``path``: the value may name a file or folder, seen from the project folder.
        ``counts=False``: the value does not change results, so it is in no fingerprint. ``known``:
        what a form offers, though others may be given: a tuple, or where one is found, such as
        ``"negfail_nb.training.arms:ALL_ARMS"``; of a function, what it returns for the settings.
    """
    return field(default=default, metadata={"help": help, **metadata})


class Checked:
    """Settings whose values are checked against their fields' types, bounds and choices when they
    are made.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        """Check every field.

        Raises
        ------
        ValueError
            For a value of another type, out of bounds, or not among the choices; the text names
            field and value.
        """
        for f in fields(self):
            value = getattr(self, f.name)
            wanted = type(f.default)
            if wanted is tuple and isinstance(value, list):  # as JSON and people write it
                value = tuple(value)
            if wanted is tuple and isinstance(value, str) and f.metadata.get("path"):
                value = (value,)  # one file
            if wanted is float and type(value) is int:  # 2 and 2.0 are one setting
                value = float(value)
            if f.metadata.get("items") is float:
                value = tuple(float(item) if type(item) is int else item for item in value)
            object.__setattr__(self, f.name, value)
            self._check(f.name, value, wanted, f.metadata)

    def _check(self, name: str, value: Any, wanted: type, metadata: Mapping[str, Any]) -> None:
        if type(value) is not wanted:
            self._refuse(
                name,
                value,
                'give a list, such as ["one", "two"]'
                if wanted is tuple
                else f"give a {wanted.__name__}",
            )
        if wanted is tuple and any(not isinstance(item, metadata["items"]) for item in value):
            self._refuse(name, value, f"each item must be a {metadata['items'].__name__}")
        choices = metadata.get("choices")
        low = metadata.get("low")
        high = metadata.get("high")
        if choices is not None and value not in choices:
            self._refuse(name, value, f"use one of {', '.join(map(repr, choices))}")
        if low is not None and not low <= value <= high:
            self._refuse(name, value, f"use {low} to {high}")

    def _refuse(self, name: str, value: Any, wanted: str) -> None:
        raise ValueError(f"{type(self).__name__}.{name} is {redact(repr(value))}; {wanted}")
