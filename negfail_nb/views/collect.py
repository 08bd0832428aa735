"""01: logs in a figure, a browser of runs, and a model that plays while one watches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from html import escape
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ipywidgets as widgets
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure

from negfail_nb.agents import Model, Reply, Sampling, Task, Tool, collect
from negfail_nb.quality import Report
from negfail_nb.settings import LiveSettings
from negfail_nb.steps import text
from negfail_nb.trajectory import Message, Trajectory
from negfail_nb.views.figures import (
    FAILURE,
    SUCCESS,
    UNLABELLED,
    legend_above,
    new_figure,
    paper_style,
)
from negfail_nb.views.forms import form
from negfail_nb.views.pages import Page, page, show_messages, show_trajectory, side_by_side
from negfail_nb.views.widgets import Cost, StartButton, choices, errors_in

OUTCOMES = {
    "success": (SUCCESS, ""),
    "failure": (FAILURE, "///"),
    "unlabelled": (UNLABELLED, "..."),
}
PAGE = 50  # runs of the list that are rendered at once
ANY = "any"
KEPT = "kept"
NOTHING = "No run fits these filters; set one back to any."
MARKS = {"success": "+", "failure": "-", "unlabelled": "?"}
WATCHED = 3  # questions that are played to be watched
CALL_TOKENS = 400  # prompt of one call, at a guess; only for the estimate
_LABEL = 110  # characters of a question in the list


def outcome_table(trajectories: Iterable[Trajectory], by: str = "log") -> pd.DataFrame:
    """Return how many runs succeeded, failed and are unlabelled, and of how many questions.

    Parameters
    ----------
    trajectories
        The runs.
    by
        ``"log"``: one row per task of one format, such as ``mint math``; ``"termination"``: one row
        per way in which runs ended.
    """
    rows = [
        (f"{t.source.format} {t.task}" if by == "log" else t.termination, t.outcome, t.question_id)
        for t in trajectories
    ]
    frame = pd.DataFrame(rows, columns=[by, "outcome", "question"])
    table = frame.groupby([by, "outcome"]).size().unstack(fill_value=0)
    table = table.reindex(columns=list(OUTCOMES), fill_value=0)
    table["questions"] = frame.groupby(by)["question"].nunique()
    return table.sort_values("failure", ascending=False).reset_index()


@paper_style
def draw_outcomes(table: pd.DataFrame) -> Figure:
    """Draw `outcome_table` as stacked bars."""
    figure, axes = new_figure(height=1.0 + 0.34 * len(table))
    left = pd.Series(0, index=table.index)
    for outcome, (color, hatch) in OUTCOMES.items():
        if table[outcome].any():
            look = {"color": color, "hatch": hatch, "edgecolor": "white", "label": outcome}
            axes.barh(table["log"], table[outcome], left=left, **look)
            left = left + table[outcome]
    for row, (total, won) in enumerate(zip(left, table["success"], strict=True)):
        judged = total - table["unlabelled"].iloc[row]
        share = f"{won / judged:.0%} of {judged:,}" if judged else "not judged"
        axes.text(total, row, f"  {share}", va="center", fontsize=8)
    axes.set(xlabel="trajectories", xlim=(0, left.max() * 1.3), title=_outcome_title(table))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    legend_above(axes)
    return figure


def _outcome_title(table: pd.DataFrame) -> str:
    won, lost = table["success"].sum(), table["failure"].sum()
    if not won + lost:
        return "No run is labelled"
    return "Most runs fail" if lost > won else f"{won / (won + lost):.0%} of the runs succeed"


class Browser(widgets.VBox):
    """A browser of runs: filters above a list, and below it the chosen run, or a success and a
    failure of its question. ``found`` are the places of the runs that fit the filters.

    Only one page of the list and one or two runs are ever rendered, so thousands of runs stay
    quick. In the field *run* the arrow keys go up and down, and a number jumps.

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

    def __init__(
        self, runs: Iterable[Trajectory], report: Report | None = None, **chosen: Any
    ) -> None:
        runs = list(runs)
        self.runs, self.facts = runs, _facts(runs, report)
        removed = report.removed if report else ()
        self.reasons = {r.id: f"removed by {r.filter}: {r.reason}" for r in removed}
        self.other = _counterparts(runs)
        self.controls = self._make_controls()
        # A number field, as JupyterLab takes the arrow keys away from lists, and leaves them to
        # fields for text.
        at = {"value": 1, "min": 1, "max": 1, "description": "run", "layout": {"width": "170px"}}
        self.at, self.count, self.pane = (
            widgets.BoundedIntText(**at),
            widgets.HTML(),
            widgets.HTML(),
        )
        self.list = widgets.Select(rows=8, layout={"width": "98%"})
        above = widgets.HBox(list(self.controls.values()), layout={"flex_flow": "row wrap"})
        super().__init__([above, widgets.HBox([self.at, self.count]), self.list, self.pane])
        for name, value in chosen.items():
            self.controls[name].value = value
        self.list.observe(self._pick, names="value")
        self._filter()
        for control in self.controls.values():
            control.observe(self._filter, names="value")
        self.at.observe(self._go, names="value")

    def _make_controls(self) -> dict[str, widgets.Widget]:
        counts: dict[str, Counter] = {}
        for facts in self.facts:
            for name, values in facts.items():
                counts.setdefault(name, Counter()).update(values)
        words = {"description": "question", "placeholder": "words in it"}
        pairs = {"indent": False, "layout": {"width": "auto"}}
        pairs["description"] = "only questions both solved and failed, side by side"
        return {
            **{name: _counted(name, found) for name, found in counts.items()},
            "words": widgets.Text(**words, continuous_update=False),
            "pairs": widgets.Checkbox(**pairs),
        }

    def _filter(self, _: Any = None) -> None:
        with errors_in(self.pane):
            given = {name: control.value for name, control in self.controls.items()}
            pairs = given.pop("pairs")
            words = given.pop("words").lower().split()
            self.found = [
                place
                for place, (run, facts) in enumerate(zip(self.runs, self.facts, strict=True))
                if all(value == ANY or value in facts[name] for name, value in given.items())
                and all(word in run.question.lower() for word in words)
                and (not pairs or self._leads_pair(place))
            ]
            self.at.max = max(1, len(self.found))
            if self.at.value == 1:
                self._go()
            else:
                self.at.value = 1

    def _leads_pair(self, place: int) -> bool:
        """Whether a run stands for a pair in the list: not for one that a failure stands for."""
        other = self.other[place]
        return other is not None and not (self.runs[place].success and self.other[other] == place)

    def _go(self, _: Any = None) -> None:
        """Show the run whose number is in the field, and the page of the list that it is on."""
        with errors_in(self.pane):
            begin = (self.at.value - 1) // PAGE * PAGE
            part = self.found[begin : begin + PAGE]
            self.count.value = (
                f"&nbsp; of {len(self.found):,}; {len(self.runs):,} runs in all "
                "(+ succeeded, - failed, ? unlabelled)"
            )
            self.list.unobserve(self._pick, names="value")
            numbered = enumerate(part, begin + 1)
            options = tuple((self._label(number, place), place) for number, place in numbered)
            if options != tuple(self.list.options):
                self.list.options = options
            chosen = self.found[self.at.value - 1] if part else None
            self.list.value = chosen
            self.list.observe(self._pick, names="value")
            self.pane.value = NOTHING if chosen is None else self._page(chosen).html

    def _pick(self, _: Any = None) -> None:
        if self.list.value is not None:
            self.at.value = self.found.index(self.list.value) + 1

    def _page(self, place: int) -> Page:
        other = self.other[place] if self.controls["pairs"].value else None
        shown = [self.runs[i] for i in (place, other) if i is not None]
        shown.sort(key=lambda run: not run.success)
        pages = []
        for run in shown:
            why = f"<p><b>{escape(self.reasons[run.id])}</b></p>" if run.id in self.reasons else ""
            pages.append(Page(why + show_trajectory(run).html))
        return pages[0] if len(pages) == 1 else side_by_side(*pages)

    def _label(self, number: int, place: int) -> str:
        run = self.runs[place]
        kinds = ", ".join(self.facts[place].get("kind", ()))
        kinds = f"  [{kinds}]" if kinds else ""
        return f"{number} {MARKS[run.outcome]} {run.question[:_LABEL]}{kinds}"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        where = f"<p><i>run {self.at.value}{self.count.value}</i></p>"
        return {**bundle, "text/html": f"{where}{self.pane.value}"}


browse = Browser  # what notebooks call


def _facts(runs: Iterable[Trajectory], report: Report | None) -> list[dict[str, tuple[str, ...]]]:
    """What each run is filtered by. Its fate is ``"kept"``, or the filter that removed it."""
    facts = [
        {"outcome": (t.outcome,), "source": (t.source.model or t.source.format,)} for t in runs
    ]
    if report is None:
        return facts
    kinds = {f.id: tuple(f.kinds) for f in report.findings}
    fates = dict.fromkeys(kinds, KEPT) | {r.id: r.filter for r in report.removed}
    return [
        {
            "outcome": fact["outcome"],
            "kind": kinds.get(run.id, ()),
            "fate": (fates.get(run.id, ""),),
            "source": fact["source"],
        }
        for run, fact in zip(runs, facts, strict=True)
    ]


def _counted(name: str, counts: Counter[str]) -> widgets.Dropdown:
    found = [(f"{v or '(none)'} ({n:,})", v) for v, n in counts.most_common() if v != ANY]
    return choices(name, [(ANY, ANY), *found], layout={"width": "300px"})


def _counterparts(runs: Sequence[Trajectory]) -> list[int | None]:
    """Of each run, the place of the first run of its question with the other outcome."""
    first: dict[tuple[str, bool], int] = {}
    for place, t in enumerate(runs):
        if t.success is not None:
            first.setdefault((t.question_id, t.success), place)
    return [None if t.success is None else first.get((t.question_id, not t.success)) for t in runs]


class Heard:
    """A model whose conversations are told on, with each reply as it comes."""

    def __init__(self, model: Model, hear: Callable[[Sequence[Message]], None]) -> None:
        self.model = model
        self.hear = hear

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    async def reply(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[dict[str, Any]] = ()
    ) -> Reply:
        """Return the model's reply, after it was told."""
        reply = await self.model.reply(messages, sampling, tools)
        self.hear([*messages, reply.message])
        return reply

    async def __aenter__(self) -> Heard:
        await self.model.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.model.__aexit__(*error)


def _live(shown: widgets.HTML) -> Callable[[Sequence[Message]], None]:
    """Return what shows conversations below each other, each anew when it has grown."""
    grown: dict[str, str] = {}

    def hear(messages: Sequence[Message]) -> None:
        spoken = [m for m in messages if m["role"] != "system"]
        grown[text(spoken[0])] = show_messages(spoken).html
        shown.value = "<hr>".join(grown.values())

    return hear


def watch_live(
    model: Model | Callable[[], Model],
    tasks: Iterable[Task],
    tools: Sequence[Tool] = (),
    live: LiveSettings = LiveSettings(),
) -> StartButton | Page:
    """Return a button with which a model plays a few questions: each turn is shown as it comes, and
    in the end the runs can be browsed. None is kept.

    Parameters
    ----------
    model
        Who plays, or a function without arguments that opens it: called at the second press, so
        nothing is loaded before.
    tasks, tools
        The first three tasks are played, with these tools.
    live
        Protocol; each task is played once, with short replies.
    """
    asked = list(islice(tasks, WATCHED))
    if not asked:
        return page("There are no questions to watch; give at least one task.")

    def play(settings: LiveSettings) -> Browser:
        shown = widgets.HTML()
        display(shown)
        player = Heard(model() if callable(model) else model, _live(shown))
        with TemporaryDirectory() as folder:
            played = collect(player, asked, tools, settings, folder=Path(folder) / "watched")
        shown.value = ""
        return browse(played)

    def cost(settings: LiveSettings) -> Cost:
        tokens = len(asked) * settings.max_calls * (CALL_TOKENS + settings.max_tokens)
        return Cost(minutes=1, tokens=tokens, money=0.0, note="at most, at a guess")

    brief = replace(live, attempts=1, max_tokens=min(live.max_tokens, 128))
    knobs = form(brief, names=("max_calls", "max_tokens", "seed"))
    name = "the model" if callable(model) else model.name
    return StartButton(play, cost, knobs, f"Let {name} play")
