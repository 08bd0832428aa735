"""All settings as a table, and as the page ``docs/settings.md``."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import Field, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from negfail_nb.settings.checked import Checked
from negfail_nb.settings.measuring import LoadSettings
from negfail_nb.settings.profile import Profile

if TYPE_CHECKING:
    import pandas as pd

HEAD = """# Settings

Every setting, with its default and what may be given. This page is made from the code:
`python -m negfail_nb settings --markdown > docs/settings.md`; a test says when it is old. Named
profiles change some of the defaults; `python -m negfail_nb settings --profile pocket` prints the
values of one.

In a notebook: the knobs, or `changes = {"train": {"epochs": 3}}` in the parameters cell. On the
command line: `--set train.epochs=3`. In Python: `profile.change(train={"epochs": 3})`.
"""
ALONE = {"load": LoadSettings()}  # of no profile


def describe(profile: Profile, stages: str | Sequence[str] = ()) -> pd.DataFrame:
    """Return settings with value and help text, one row each: of all stages, of one, or of some."""
    import pandas as pd

    every = tuple(f.name for f in fields(profile)[1:])
    wanted = (stages,) if isinstance(stages, str) else tuple(stages) or every
    rows = [
        (f"{stage}.{f.name}", repr(getattr(getattr(profile, stage), f.name)), f.metadata["help"])
        for stage in wanted
        for f in fields(getattr(profile, stage))
    ]
    return pd.DataFrame(rows, columns=["setting", "value", "what it does"])


def described(profile: Profile, width: int = 80) -> str:
    """Return all settings as text for a terminal: name and value, below them what it does."""
    wrap = partial(textwrap.fill, width=width, subsequent_indent="    ", break_long_words=False)
    rows = describe(profile).itertuples(index=False, name=None)
    return "\n".join(
        f"{wrap(f'{name} = {value}')}\n{wrap('    ' + text)}" for name, value, text in rows
    )


def settings_page() -> str:
    """Return the page as Markdown: a table for each stage."""
    stages = {f.name: f.default for f in fields(Profile)[1:]} | ALONE
    return "\n".join([HEAD, *(_section(name, settings) for name, settings in stages.items())])


def _section(stage: str, settings: Checked) -> str:
    note = "" if stage not in ALONE else f" Of no profile: `{type(settings).__name__}(..)`."
    about = " ".join((type(settings).__doc__ or "").split())
    head = "| setting | default | values | what it does |\n|---|---|---|---|\n"
    return f"## {stage}\n\n{about}{note}\n\n{head}" + "".join(_rows(settings))


def _rows(settings: Checked) -> Iterator[str]:
    for f in fields(settings):
        cells = (
            f"`{f.name}`",
            f"`{_shown(getattr(settings, f.name))}`",
            _values(f),
            f.metadata["help"],
        )
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


def _values(field: Field) -> str:
    bounds = field.metadata
    if bounds.get("choices") is not None:
        return ", ".join(f"`{_shown(choice)}`" for choice in bounds["choices"])
    if bounds.get("low") is not None:
        return f"{_number(bounds['low'])} to {_number(bounds['high'])}"
    kinds = {tuple: "list", bool: "true, false", str: "text"}
    return kinds.get(type(field.default), "number")


def _number(value: float) -> str:
    return (
        f"{value:,}"
        if isinstance(value, int) or abs(value) >= 0.001 or value == 0
        else f"{value:g}"
    )


def _shown(value: Any) -> str:
    """As JSON, which is how the command line takes it."""
    return json.dumps(value)
