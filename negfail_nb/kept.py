"""Choices that stick: ``settings.json`` in the project folder holds what differs from a profile.

A knob that is turned in one notebook writes here, and every notebook and command reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from negfail_nb.content import write_json
from negfail_nb.locks import alone
from negfail_nb.secrets import check_no_secret
from negfail_nb.settings import get_profile

FILE = "settings.json"  # {profile: {stage: {setting: value}}}

Changes = Mapping[str, Mapping[str, Any]]


def kept(home: str | Path, profile: str) -> dict[str, dict[str, Any]]:
    """Return the kept settings of a profile, by stage; empty where nothing was kept.

    Raises
    ------
    ValueError
        If the file is not what `keep` writes, or holds a profile or a setting that does not exist;
        the text names the file.
    """
    path = Path(home) / FILE
    every = _read(path)
    for name, found in every.items():  # of others, too: a misspelt profile is nobody's
        try:
            get_profile(name, home).change(**found)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}, profile {name}: {error}; correct the file, or delete it to have "
                "every profile as it comes"
            ) from None
    return every.get(profile, {})


def keep(home: str | Path, profile: str, changes: Changes) -> None:
    """Write some settings of a profile; those that it has anyway are taken out.

    Parameters
    ----------
    home
        The project folder.
    profile
        The name of a profile.
    changes
        By stage: ``{"train": {"epochs": 3}}``. Other kept settings stay.

    Raises
    ------
    ValueError
        For a setting that does not exist or cannot be right, or a secret; nothing is written then.
    """
    check_no_secret("a kept setting", json.dumps(changes, ensure_ascii=False))
    named = get_profile(profile, home)
    named.change(**changes)
    path = Path(home) / FILE
    with alone(path, FILE):
        every = _read(path)
        stages = every.get(profile, {})
        for stage, values in changes.items():
            both = stages.get(stage, {}) | dict(values)
            changed = named.change(**{stage: both})
            new, old = getattr(changed, stage), getattr(named, stage)
            stages[stage] = {k: v for k, v in both.items() if getattr(new, k) != getattr(old, k)}
        _write(path, every | {profile: stages})


def forget(home: str | Path, profile: str, *stages: str) -> None:
    """Take the kept settings of some stages of a profile out; of all, if none is named."""
    path = Path(home) / FILE
    if not path.exists():
        return
    with alone(path, FILE):
        every = _read(path)
        found = every.get(profile, {})
        left = {k: v for k, v in found.items() if stages and k not in stages}
        _write(path, every | {profile: left})


def described(changes: Changes) -> str:
    """Return settings as the command line takes them: ``train.epochs=3, train.seed=1``."""
    return ", ".join(
        f"{stage}.{name}={json.dumps(value, ensure_ascii=False)}"
        for stage, values in changes.items()
        for name, value in values.items()
    )


def merged(*parts: Changes) -> dict[str, dict[str, Any]]:
    """Return changes as one; of a setting that several hold, the last counts."""
    found: dict[str, dict[str, Any]] = {}
    for part in parts:
        for stage, values in part.items():
            found[stage] = {**found.get(stage, {}), **values}
    return found


def _write(path: Path, every: Mapping[str, Any]) -> None:
    full = {
        profile: {stage: values for stage, values in stages.items() if values}
        for profile, stages in every.items()
    }
    left = {profile: stages for profile, stages in full.items() if stages}
    if left:
        write_json(path, left)
    else:
        path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); correct it, or delete it") from None
    shaped = isinstance(found, dict) and all(
        isinstance(stages, dict) and all(isinstance(v, dict) for v in stages.values())
        for stages in found.values()
    )
    if not shaped:
        raise ValueError(
            f'{path} is not of the form {{"pocket": {{"train": {{"epochs": 3}}}}}}; correct it, or '
            "delete it"
        )
    return found
