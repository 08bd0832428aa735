"""A browser for runs: filters above a list, the chosen run below, or a success and a failure of its
question.

Only one page of the list and one or two runs are ever rendered, so thousands of runs stay quick. In
the field *run* the arrow keys go up and down, and a number jumps. Nothing of a log is taken as
HTML.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from negfail_nb.trajectory import Trajectory
from negfail_nb.views.browse import Page, errors_in, show_trajectory, side_by_side

if TYPE_CHECKING:
    from negfail_nb.quality import Report

PAGE = 50  # runs of the list that are rendered at once
ANY, KEPT = "any", "kept"
NOTHING = "No run fits these filters; set one back to any."
MARKS = {"success": "+", "failure": "-", "unlabelled": "?"}
_LABEL = 110  # characters of a question in the list
_WIDE = {"width": "98%"}


@dataclass(frozen=True, slots=True)
class Entry:
    """What is filtered by: facts of one run. ``fate`` is ``"kept"``, or the filter that removed it;
    empty: unknown.
    """

    outcome: str
    kinds: tuple[str, ...]
    source: str
    fate: str
    question: str


def entries(runs: Iterable[Trajectory], report: Report | None = None) -> list[Entry]:
    """Return what the browser filters by, one a run; kinds of failure and removals come from a
    quality report.
    """
    kinds = {f.id: f.kinds for f in report.findings} if report else {}
    fates = {r.id: r.filter for r in report.removed} if report else {}
    return [
        Entry(
            t.outcome,
            tuple(kinds.get(t.id, ())),
            t.source.model or t.source.format,
            (fates.get(t.id, KEPT) if t.id in kinds else "") if report else "",
            t.question,
        )
        for t in runs
    ]


def matching(
    rows: Sequence[Entry],
    outcome: str = ANY,
    kind: str = ANY,
    source: str = ANY,
    fate: str = ANY,
    words: str = "",
) -> list[int]:
    """Return the places of the entries that fit all filters; ``words`` must all stand in the
    question.
    """
    wanted = words.lower().split()
    return [
        place
        for place, row in enumerate(rows)
        if outcome in (ANY, row.outcome)
        and (kind == ANY or kind in row.kinds)
        and source in (ANY, row.source)
        and fate in (ANY, row.fate)
        and all(word in row.question.lower() for word in wanted)
    ]


def browse(runs: Iterable[Trajectory], report: Report | None = None, **chosen: Any) -> Browser:
    """Return a browser of runs.

    Parameters
    ----------
    runs
        Logs, episodes, or any trajectories.
    report
        Of `negfail_nb.assess` on the same runs: adds the filters *kind* (of failure) and *fate*
        (kept, or removed by which filter), and says below a removed run why it was removed.
    chosen
        Where the controls stand at first: ``outcome``, ``kind``, ``source``, ``fate``, ``words``,
        ``pairs``.
    """
    return Browser(list(runs), report, chosen)


class Browser(widgets.VBox):
    """See `browse`. ``found`` are the places of the runs that fit the filters."""

    def __init__(
        self, runs: Sequence[Trajectory], report: Report | None, chosen: Mapping[str, Any]
    ) -> None:
        self.runs, self.entries = runs, entries(runs, report)
        self.reasons = (
            {r.id: f"removed by {r.filter}: {r.reason}" for r in report.removed} if report else {}
        )
        self.other = _counterparts(runs)
        self.controls = self._make_controls(report is not None)
        # A number field, as JupyterLab takes the arrow keys away from lists, and leaves them to
        # fields for text.
        self.at = widgets.BoundedIntText(
            value=1, min=1, max=1, description="run", layout={"width": "170px"}
        )
        self.count = widgets.HTML()
        self.list = widgets.Select(rows=8, layout=_WIDE)
        self.pane = widgets.HTML()
        above = widgets.HBox(list(self.controls.values()), layout={"flex_flow": "row wrap"})
        super().__init__([above, widgets.HBox([self.at, self.count]), self.list, self.pane])
        for name, value in chosen.items():
            self.controls[name].value = value
        self.list.observe(self._pick, names="value")
        self._filter()
        for control in self.controls.values():
            control.observe(self._filter, names="value")
        self.at.observe(self._go, names="value")

    def _make_controls(self, assessed: bool) -> dict[str, widgets.Widget]:
        rows = self.entries
        made = {"outcome": _counted("outcome", Counter(row.outcome for row in rows))}
        if assessed:
            made["kind"] = _counted("kind", Counter(kind for row in rows for kind in row.kinds))
            made["fate"] = _counted("fate", Counter(row.fate for row in rows))
        made["source"] = _counted("source", Counter(row.source for row in rows))
        made["words"] = widgets.Text(
            description="question", placeholder="words in it", continuous_update=False
        )
        pairs = "only questions both solved and failed, side by side"
        made["pairs"] = widgets.Checkbox(description=pairs, indent=False, layout={"width": "auto"})
        return made

    def _filter(self, _: Any = None) -> None:
        with errors_in(self.pane):
            given = {name: control.value for name, control in self.controls.items()}
            pairs = given.pop("pairs")
            found = matching(self.entries, **given)
            self.found = (
                [place for place in found if self.other[place] is not None] if pairs else found
            )
            self.at.max = max(1, len(self.found))
            if self.at.value == 1:
                self._go()
            else:
                self.at.value = 1

    def _go(self, _: Any = None) -> None:
        """Show the run whose number is in the field, and the page of the list that it is on."""
        with errors_in(self.pane):
            begin = (self.at.value - 1) // PAGE * PAGE
            part = self.found[begin : begin + PAGE]
            self.count.value = f"&nbsp; of {len(self.found):,}; {len(self.runs):,} runs in all"
            self.list.unobserve(self._pick, names="value")
            options = [(self._label(place), place) for place in part]
            if tuple(options) != tuple(self.list.options):
                self.list.options = options
            self.list.value = self.found[self.at.value - 1] if part else None
            self.list.observe(self._pick, names="value")
            self.pane.value = (
                NOTHING if self.list.value is None else self._page(self.list.value).html
            )

    def _pick(self, _: Any = None) -> None:
        if self.list.value is not None:
            self.at.value = self.found.index(self.list.value) + 1

    def _page(self, place: int) -> Page:
        other = self.other[place] if self.controls["pairs"].value else None
        shown = (
            [place]
            if other is None
            else sorted((place, other), key=lambda i: not self.runs[i].success)
        )
        pages = [_with_reason(self.runs[i], self.reasons.get(self.runs[i].id, "")) for i in shown]
        return pages[0] if len(pages) == 1 else side_by_side(*pages)

    def _label(self, place: int) -> str:
        row = self.entries[place]
        kinds = f"  [{', '.join(row.kinds)}]" if row.kinds else ""
        return f"{place + 1} {MARKS[row.outcome]} {row.question[:_LABEL]}{kinds}"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        return {
            **bundle,
            "text/html": f"<p><i>run {self.at.value}{self.count.value}</i></p>{self.pane.value}",
        }


def _counted(name: str, counts: Counter[str]) -> widgets.Dropdown:
    options = [
        (f"{value or '(none)'} ({count:,})", value)
        for value, count in counts.most_common()
        if value != ANY
    ]
    return widgets.Dropdown(
        options=[(ANY, ANY), *options], description=name, layout={"width": "300px"}
    )


def _counterparts(runs: Sequence[Trajectory]) -> list[int | None]:
    """Of each run, the place of the first run of its question with the other outcome."""
    first: dict[tuple[str, bool], int] = {}
    for place, t in enumerate(runs):
        if t.success is not None:
            first.setdefault((t.question_id, t.success), place)
    return [None if t.success is None else first.get((t.question_id, not t.success)) for t in runs]


def _with_reason(trajectory: Trajectory, reason: str) -> Page:
    said = f"<p><b>{escape(reason)}</b></p>" if reason else ""
    return Page(said + show_trajectory(trajectory).html)
