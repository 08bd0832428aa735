"""A saved figure again from its csv and json, in any venue's size; and all figures of a folder for
a paper.
"""

from __future__ import annotations

import inspect
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pandas as pd
from matplotlib.figure import Figure

from negfail_nb import views
from negfail_nb.csvs import read_csv
from negfail_nb.views.figures import SIZES, figure_width, fit_figure, save_figure

log = logging.getLogger("negfail_nb")

_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TEX["\\"] = r"\textbackslash{}"


@dataclass(frozen=True, slots=True)
class Paper:
    """What `collect_figures` wrote: the folder, and the names of its figures; ``old`` were copied
    in their old size.
    """

    folder: Path
    figures: tuple[str, ...]
    old: tuple[str, ...]


def redraw(path: str | Path) -> Figure:
    """Draw a saved figure again, from the numbers in its csv.

    Parameters
    ----------
    path
        The csv, or another file of the figure; the csv and the json must both be there.

    Raises
    ------
    FileNotFoundError
        Where one of them is not.
    ValueError
        Where the json does not say who drew the figure, or names what this version cannot draw.
    """
    table, record = read_table(path), _record(path)
    call = record.get("drawn") or {}
    function = getattr(views, call.get("function", ""), None)
    if (
        function is None
        or call["function"] not in views.__all__
        or not call["function"].startswith("draw_")
    ):
        raise ValueError(
            f"{Path(path).with_suffix('.json')} does not say which function of negfail_nb.views drew the figure "
            f"({call.get('function')!r}); save it again with save_figure"
        )
    return function(table, **_revived(function, call["arguments"]))


def read_table(path: str | Path) -> pd.DataFrame:
    """Return the numbers of a saved figure, as they were when it was drawn.

    Raises
    ------
    FileNotFoundError
        Where the figure's csv or json is missing.
    """
    kinds = _record(path).get("columns", {})
    text = [name for name, kind in kinds.items() if kind != "values"]
    missing = {name: [""] for name, kind in kinds.items() if kind != "text"}
    return read_csv(
        Path(path).with_suffix(".csv"),
        dtype=dict.fromkeys(text, "str"),
        keep_default_na=False,
        na_values=missing,
    )


def collect_figures(
    source: str | Path, target: str | Path, venue: str = "neurips", part: str = "text"
) -> Paper:
    """Put all figures of a folder into another one, drawn in a venue's size, with a LaTeX snippet
    for each.

    ``target`` gets pdf, png, csv, json and tex of each, and ``figures.tex``, which inputs all of
    them.

    Parameters
    ----------
    source
        Such as ``walk.figures``.
    target
        Is made where it is not there.
    venue, part
        See `negfail_nb.views.figure_width`.

    Raises
    ------
    FileNotFoundError
        Where there are no figures.
    """
    figure_width(venue, part)  # a wrong name is said before anything is drawn
    source, target = Path(source), Path(target)
    names = sorted(p.stem for p in source.glob("*.json") if p.with_suffix(".csv").is_file())
    if not names:
        raise FileNotFoundError(f"no figures in {source}; `python -m negfail_nb run` draws them")
    target.mkdir(parents=True, exist_ok=True)
    old = tuple(name for name in names if not _again(source / name, target, venue, part))
    for name in names:
        (target / f"{name}.tex").write_text(
            snippet(_record(target / name), venue, part), encoding="utf-8"
        )
    lines = "".join(f"\\input{{{name}.tex}}\n" for name in names)
    (target / "figures.tex").write_text(f"% \\usepackage{{graphicx}}\n{lines}", encoding="utf-8")
    return Paper(target, tuple(names), old)


def snippet(record: Mapping[str, Any], venue: str = "neurips", part: str = "text") -> str:
    """Return a LaTeX figure for a saved one; its caption is a start, and comments say where the
    numbers are from.
    """
    name = record["figure"]
    column, text = SIZES[venue.lower()]
    star = "*" if part == "text" and column < text else ""
    about = record.get("provenance", {})
    run = f", profile {about['profile']}" if isinstance(about.get("profile"), str) else ""
    commit = record.get("environment", {}).get("git", {}).get("commit", "")[:10]
    return (
        f"% {name}: {record['rows']} rows in {name}.csv{run}{f', commit {commit}' if commit else ''}; "
        f"all of it in {name}.json\n"
        f"\\begin{{figure{star}}}[t]\n  \\centering\n  \\includegraphics{{{name}.pdf}}\n"
        f"  \\caption{{{_tex(record.get('title') or name)}.}}\n"
        f"  \\label{{fig:{name.replace('_', '-')}}}\n\\end{{figure{star}}}\n"
    )


def _again(base: Path, target: Path, venue: str, part: str) -> bool:
    """Draw one figure in the wanted size; where that cannot be, copy it and say so."""
    record = _record(base)
    try:
        figure = fit_figure(redraw(base), venue, part)
    except ValueError as error:
        log.warning("%s is copied in its old size: %s", base.name, error)
        for ending in (".pdf", ".png", ".csv", ".json"):
            shutil.copyfile(base.with_suffix(ending), target / f"{base.name}{ending}")
        return False
    save_figure(figure, read_table(base), base.name, target, record["provenance"])
    return True


def _record(path: str | Path) -> dict[str, Any]:
    path = Path(path).with_suffix(".json")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: a saved figure is its csv and its json; save_figure writes both"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _revived(function: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as the function's annotations want them: rows as a table, fields as a record.
    Nothing else is made.
    """
    hints = get_type_hints(inspect.unwrap(function))
    return {name: _as(value, hints.get(name)) for name, value in arguments.items()}


def _as(value: Any, hint: Any) -> Any:
    kinds = get_args(hint) or (hint,)
    if isinstance(value, list) and pd.DataFrame in kinds:
        return pd.DataFrame(value)
    record = next((kind for kind in kinds if is_dataclass(kind)), None)
    return record(**value) if isinstance(value, dict) and record else value


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in text)
