"""Figures in files: saved with every plotted number and what it came from, drawn again, collected
for a paper.
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

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from negfail_nb.content import fingerprint, plain, write_json
from negfail_nb.csvs import csv_text, read_csv
from negfail_nb.environment import environment
from negfail_nb.locks import naming
from negfail_nb.runs import Run
from negfail_nb.views.figures import DRAWN, STYLE
from negfail_nb.views.layout import at_width

log = logging.getLogger("negfail_nb")

# Width in inches of a column and of the whole text, by the venues' style files.
SIZES: Mapping[str, tuple[float, float]] = {
    "neurips": (5.5, 5.5),
    "icml": (3.25, 6.75),
    "iclr": (5.5, 5.5),
    "acl": (3.03, 6.30),
    "aaai": (3.3, 6.975),
    "jmlr": (6.0, 6.0),
}
PARTS = ("column", "text")
FILES = (".pdf", ".png", ".csv", ".json")
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


def save_figure(
    figure: Figure, table: pd.DataFrame, name: str, folder: str | Path, origin: Any = None
) -> Path:
    """Write ``name.pdf``, ``.png`` (300 dpi), ``.csv`` (every plotted number) and ``.json`` (what
    it came from).

    The same figure, table and origin give byte-identical pdf, png and csv. The csv holds numbers to
    the last digit, so that `redraw` gives the same figure again; texts that are formulas to a
    spreadsheet are guarded, see `negfail_nb.csvs`.

    Parameters
    ----------
    figure, table
        The drawing, and the numbers that it shows.
    name, folder
        File name without ending, and where to.
    origin
        What the numbers came from: a `negfail_nb.runs.Run`, or a result that has one as ``run``; a
        result that has a ``content``, of which the hash is kept; settings; or a mapping or list of
        these. The ``environment`` in the json is that of the run; what drew the figure is kept
        apart, as ``drawn_with``.

    Returns
    -------
    pathlib.Path
        The png.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / name
    text = csv_text(table)
    provenance = describe_origin(origin)
    provenance = provenance if isinstance(provenance, Mapping) else {"origin": provenance}
    with mpl.rc_context(STYLE), naming(base):
        base.with_suffix(".csv").write_text(text, encoding="utf-8", newline="\n")
        dates = dict.fromkeys(("CreationDate", "Creator", "Producer"))
        figure.savefig(base.with_suffix(".pdf"), metadata=dates)
        figure.savefig(base.with_suffix(".png"), metadata={"Software": None})
    panels = (axes.get_title(loc="left") or axes.get_title() for axes in figure.axes)
    titles = [figure.get_suptitle(), *panels]
    record = {
        "figure": name,
        "title": " · ".join(" ".join(title.split()) for title in titles if title),
        "caption": getattr(figure, "caption", ""),
        "drawn": getattr(figure, "drawn", None),
        "rows": len(table),
        "columns": {column: column_kind(table[column]) for column in table},
        "table": fingerprint(text),
        "provenance": provenance,
        "environment": _computed_with(provenance),
        "drawn_with": environment(),
    }
    write_json(base.with_suffix(".json"), record)
    return base.with_suffix(".png")


def describe_origin(origin: Any) -> Any:
    """Return the origin of a figure as plain JSON values, see `save_figure`."""
    run = getattr(origin, "run", origin)
    if isinstance(run, Run):
        kept = ("results", "finished", "environment")
        return plain({**run.plan, **{name: run.manifest[name] for name in kept}})
    if run is None:  # a result that no run folder holds, or no origin at all
        return {}
    if isinstance(content := getattr(origin, "content", None), str):
        return {"content": content}
    if isinstance(origin, Mapping):
        return {str(name): describe_origin(part) for name, part in origin.items()}
    if isinstance(origin, list | tuple) and any(map(is_dataclass, origin)):
        names = [_name(part) for part in origin]
        numbered = [
            name if names.count(name) == 1 else f"{name} {number}"
            for number, name in enumerate(names, 1)
        ]
        return dict(zip(numbered, map(describe_origin, origin), strict=True))
    return plain(origin)


def _name(part: Any) -> str:
    run = getattr(part, "run", part)
    return run.stage if isinstance(run, Run) else type(part).__name__


def _computed_with(provenance: Mapping[str, Any]) -> Any:
    """The environment of the run that a figure shows: by name if runs differ, ours if there is no
    run.
    """
    if "environment" in provenance:
        return provenance["environment"]
    parts = {name: part for name, part in provenance.items() if isinstance(part, Mapping)}
    found = {name: part["environment"] for name, part in parts.items() if "environment" in part}
    alike = len({fingerprint(one) for one in found.values()}) == 1
    return (next(iter(found.values())) if alike else found) or environment()


def column_kind(column: pd.Series) -> str:
    """Return what a csv does not say of a column: ``text``, ``text or nothing``, or ``values``."""
    known = column.dropna()
    if known.empty or not all(isinstance(value, str) for value in known):
        return "values"
    return "text or nothing" if len(known) < len(column) and not (known == "").any() else "text"


def redraw(path: str | Path, width: float | None = None) -> Figure:
    """Draw a saved figure again, from the numbers in its csv.

    Parameters
    ----------
    path
        The csv, or another file of the figure; the csv and the json must both be there.
    width
        In inches, and laid out for it; ``None``: as it was.

    Raises
    ------
    FileNotFoundError
        If one of them is not.
    ValueError
        If the json does not say who drew the figure, or names what this version cannot draw.
    """
    call = _record(path).get("drawn") or {}
    return draw_again(read_table(path), call, width, f"{Path(path).with_suffix('.json')}")


def draw_again(
    table: pd.DataFrame, call: Mapping[str, Any], width: float | None = None, where: str = "it"
) -> Figure:
    """Draw a table as it was drawn before: by ``drawn`` of a figure, or of its json.

    Raises
    ------
    ValueError
        If it does not say who drew the figure, or names what this version cannot draw.
    """
    draw = DRAWN.get(call.get("function", ""))
    if draw is None:
        raise ValueError(
            f"{where} does not say which function drew the figure "
            f"({call.get('function')!r}); save it again with save_figure"
        )
    hints = get_type_hints(inspect.unwrap(draw))
    given = call["arguments"]
    if unknown := sorted(set(given) - set(inspect.signature(draw).parameters)):
        raise ValueError(f"{call['function']} does not take {', '.join(unknown)} any more")
    arguments = {name: _revived(value, hints.get(name)) for name, value in given.items()}
    with at_width(width):
        return draw(table, **arguments)


def _revived(value: Any, hint: Any) -> Any:
    """An argument as the function's annotation wants it: fields as a record, all else as it is."""
    record = next((kind for kind in get_args(hint) or (hint,) if is_dataclass(kind)), None)
    return record(**value) if isinstance(value, dict) and record else value


def read_table(path: str | Path) -> pd.DataFrame:
    """Return the numbers of a saved figure, as they were when it was drawn."""
    kinds = _record(path).get("columns", {})
    text = [name for name, kind in kinds.items() if kind != "values"]
    missing = {name: [""] for name, kind in kinds.items() if kind != "text"}
    given = {"dtype": dict.fromkeys(text, "str"), "keep_default_na": False, "na_values": missing}
    return read_csv(Path(path).with_suffix(".csv"), **given)


def _record(path: str | Path) -> dict[str, Any]:
    path = Path(path).with_suffix(".json")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: a saved figure is its csv and its json; save_figure writes both"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def figure_width(venue: str, part: str = "text") -> float:
    """Return the width of a venue's column or text, in inches."""
    if venue.lower() not in SIZES:
        raise ValueError(f"no sizes for the venue {venue!r}; there are {', '.join(SIZES)}")
    if part not in PARTS:
        raise ValueError(f"part is {part!r}; use one of {', '.join(PARTS)}")
    return SIZES[venue.lower()][PARTS.index(part)]


def collect_figures(
    source: str | Path, target: str | Path, venue: str = "neurips", part: str = "text"
) -> Paper:
    """Draw all figures of a folder again in a venue's size, each with a LaTeX snippet.

    ``target`` gets pdf, png, csv, json and tex of each, and ``figures.tex``, which inputs them all.

    Raises
    ------
    FileNotFoundError
        If there are no figures.
    ValueError
        For a venue that is not among `SIZES`, or another part than ``"column"`` and ``"text"``.
    """
    figure_width(venue, part)  # a wrong name is reported before anything is drawn
    source = Path(source)
    target = Path(target)
    names = sorted(p.stem for p in source.glob("*.json") if p.with_suffix(".csv").is_file())
    if not names:
        raise FileNotFoundError(f"no figures in {source}; `python -m negfail_nb run` draws them")
    target.mkdir(parents=True, exist_ok=True)
    old = tuple(name for name in names if not _again(source / name, target, venue, part))
    for name in names:
        tex = snippet(_record(target / name), venue, part)
        (target / f"{name}.tex").write_text(tex, encoding="utf-8")
    lines = "".join(f"\\input{{{name}.tex}}\n" for name in names)
    (target / "figures.tex").write_text(f"% \\usepackage{{graphicx}}\n{lines}", encoding="utf-8")
    return Paper(target, tuple(names), old)


def _again(base: Path, target: Path, venue: str, part: str) -> bool:
    """Draw one figure in the wanted size; if that cannot be, copy it and say so."""
    try:
        figure = redraw(base, figure_width(venue, part))
    except ValueError as error:
        log.warning("%s is copied in its old size: %s", base.name, error)
        for ending in FILES:
            shutil.copyfile(base.with_suffix(ending), target / f"{base.name}{ending}")
        return False
    save_figure(figure, read_table(base), base.name, target, _record(base)["provenance"])
    return True


def snippet(record: Mapping[str, Any], venue: str = "neurips", part: str = "text") -> str:
    """Return a LaTeX figure with a first caption; a comment says where its numbers are from."""
    name = record["figure"]
    column, text = SIZES[venue.lower()]
    star = "*" if part == "text" and column < text else ""
    about = record.get("provenance", {})
    run = next((about[key] for key in ("profile", "stage") if isinstance(about.get(key), str)), "")
    commit = record.get("environment", {}).get("git", {}).get("commit", "")[:10]
    facts = (f"{record['rows']} rows in {name}.csv", run, f"commit {commit}" if commit else "")
    words = [record.get("title") or name, *record.get("caption", "").splitlines()]
    said = " ".join(word if word.endswith(".") else f"{word}." for word in words if word)
    title = "".join(_TEX.get(c, c) for c in said)
    return (
        f"% {name}: {', '.join(filter(None, facts))}; all of it in {name}.json\n"
        f"\\begin{{figure{star}}}[t]\n  \\centering\n  \\includegraphics{{{name}.pdf}}\n"
        f"  \\caption{{{title}}}\n"
        f"  \\label{{fig:{name.replace('_', '-')}}}\n\\end{{figure{star}}}\n"
    )
