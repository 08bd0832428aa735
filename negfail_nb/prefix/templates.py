"""Label templates: which class a trajectory belongs to, and how the question turn says so.

The templates themselves are data (``templates.toml``); a user's own file has the same form.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negfail_nb.trajectory import TASKS, Message, Trajectory

if TYPE_CHECKING:
    from negfail_nb.settings import PrefixSettings

PACKAGE_FILE = Path(__file__).with_name("templates.toml")
QUESTION = "{question}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelClass:
    """One class of a template.

    Attributes
    ----------
    text
        The question turn of each task, with ``{question}``; ``default`` is for the other tasks.
    score, at_least, above
        The condition: the score must be at least, or above, so much. The last class of a template
        has none.
    """

    name: str
    text: Mapping[str, str]
    score: str = ""
    at_least: float | None = None
    above: float | None = None

    def holds(self, value: float) -> bool:
        """Return whether a score of ``value`` meets the condition."""
        return value >= self.at_least if self.at_least is not None else value > self.above


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """Label classes from best to worst, each with the wording of the question turn (arXiv
    2402.11651, section 3).

    Attributes
    ----------
    classes
        From best to worst; the last one takes what no other took.
    instruction
        By task: a sentence that this template adds to the instruction turn.
    judged
        Of failed runs only the steps that are judged good carry loss, see
        `negfail_nb.quality.judging`.
    weighed_by
        The score that the loss of a failed run is multiplied by; empty: all runs count alike.
    """

    name: str
    classes: tuple[LabelClass, ...]
    instruction: Mapping[str, str] = field(default_factory=dict)
    judged: bool = False
    weighed_by: str = ""

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores that decide the class."""
        return tuple(dict.fromkeys(c.score for c in self.classes if c.score))

    def classify(self, trajectory: Trajectory) -> int:
        """Return the index of the trajectory's class; 0 is the best.

        Raises
        ------
        ValueError
            If the trajectory lacks a score that the template asks for; the text names both.
        """
        for index, label in enumerate(self.classes[:-1]):
            if label.holds(_score(trajectory, label.score, self.name)):
                return index
        return len(self.classes) - 1

    def weight(self, trajectory: Trajectory) -> float:
        """Return what the loss of a trajectory is multiplied by: 1 for a success.

        Raises
        ------
        ValueError
            If a failed run lacks the score, or it is not between 0 and 1.
        """
        if not self.weighed_by or trajectory.success:
            return 1.0
        value = _score(trajectory, self.weighed_by, self.name)
        if not 0 <= value <= 1:
            raise ValueError(
                f"trajectory {trajectory.id!r}: its score {self.weighed_by!r} is {value}; a weight "
                "of the loss is between 0 and 1"
            )
        return value

    def text(self, question: str, task: str, label_class: int) -> str:
        """Return the question turn of a class. Braces in the question stay as they are."""
        texts = self.classes[label_class].text
        return (texts.get(task) or texts["default"]).replace(QUESTION, question)

    def inference(self, question: str, task: str) -> str:
        """Return the question turn at inference: that of the best class.

        With the inverse templates that says "incorrect", as in the original repository.
        """
        return self.text(question, task, 0)


def known_templates(settings: PrefixSettings) -> tuple[str, ...]:
    """Return the names that ``prefix.template`` may have; without those of a file that cannot be
    read.
    """
    try:
        return tuple(load_templates(settings.template_file))
    except (OSError, ValueError):
        return tuple(load_templates())


def load_templates(file: str | Path = "") -> dict[str, Template]:
    """Return the package's templates, and those of a file of one's own.

    Parameters
    ----------
    file
        A TOML file of the same form as the package's ``templates.toml``; its ``instruction`` tables
        are not read.

    Raises
    ------
    ValueError
        If it is not such a file; the text names file, template and field.
    """
    templates = dict(_package_templates())
    if file:
        own = _read(Path(file))
        taken = sorted(set(own) & set(templates))
        if taken:
            raise ValueError(
                f"{file}: template {taken[0]!r} is one of the package's; give yours another name"
            )
        templates |= own
    return templates


def find_template(name: str, file: str | Path = "") -> Template:
    """Return one of the templates of `load_templates`.

    Raises
    ------
    ValueError
        If there is none of that name; the text lists the names.
    """
    templates = load_templates(file)
    if name not in templates:
        raise ValueError(f"there is no label template {name!r}; there are {', '.join(templates)}")
    return templates[name]


def nat_k(edges: Sequence[float], score: str = "f1") -> Template:
    """Return the template that bins trajectories on a score: k edges make k + 1 classes.

    Parameters
    ----------
    edges
        Ascending, above 0 and at most 1. A trajectory is in a bin from its lower edge on.
    score
        ``f1``, ``quality`` or another name in `Trajectory.scores`.

    Raises
    ------
    ValueError
        If the edges are not ascending numbers in (0, 1].

    Notes
    -----
    The paper's NAT-2 is ``three-class``: it parts off f1 = 0, for which there is no edge here; take
    a small one.
    """
    edges = tuple(float(edge) for edge in edges)
    if not edges or list(edges) != sorted(set(edges)) or not all(0 < edge <= 1 for edge in edges):
        raise ValueError(
            f"edges are {edges}; use ascending numbers above 0 and at most 1, such as (0.4, 1.0)"
        )
    count = len(edges) + 1
    classes = tuple(
        LabelClass(
            name=f"{index} of {count}",
            text={"default": f"[Class {index} of {count}] Question: {QUESTION}."},
            score="" if edge is None else score,
            at_least=edge,
        )
        for index, edge in enumerate((*reversed(edges), None), 1)
    )
    shown = ", ".join(f"{edge:g}" for edge in edges)
    return Template(name=f"nat-k {score} {shown}", classes=classes)


def steps_of(template: Template) -> Template:
    """Return a template that puts all runs under the best label of another one; of failed runs only
    the steps that are judged good carry loss (after EEF, arXiv 2504.13145).
    """
    best = template.classes[0]
    label = LabelClass(name=best.name, text=best.text)
    return replace(template, name=f"steps of {template.name}", classes=(label,), judged=True)


def weighed(template: Template, score: str = "quality") -> Template:
    """Return a template whose failed runs count by a score (after RIFT, arXiv 2601.09253)."""
    return replace(template, name=f"{template.name}, weighed by {score}", weighed_by=score)


def instruction_turns(template: Template, task: str) -> tuple[Message, Message]:
    """Return the user turn that explains the task, with the template's own sentence, and the
    assistant's answer to it (arXiv 2402.11651, appendix).
    """
    turns = _package_document()["instruction"][task]
    added = template.instruction.get(task, "")
    user = turns["user"] + (f"\n{added}" if added else "")
    return {"role": "user", "content": user}, {"role": "assistant", "content": turns["assistant"]}


def _score(trajectory: Trajectory, name: str, template: str) -> float:
    if name == "success" and trajectory.success is not None:
        return float(trajectory.success)
    if name in trajectory.scores:
        return float(trajectory.scores[name])
    if name == "f1" and trajectory.success:
        return 1.0  # a solved math problem has no F1; solved is as good as an answer can be
    way = (
        "assess the logs first (negfail_nb.assess)"
        if name == "quality"
        else "set prefix.score to 'quality'"
    )
    arm = "weighted" if "weighed" in template else "nat-k"
    raise ValueError(
        f"trajectory {trajectory.id!r}: template {template!r} needs the score {name!r}; it has "
        f"{', '.join(sorted(trajectory.scores)) or 'none'} and success {trajectory.success}; "
        f"{way}, leave {arm} out of train.arms, or grade the logs (negfail_nb.grade)"
    )


@cache
def _package_document() -> dict[str, Any]:
    return tomllib.loads(PACKAGE_FILE.read_text(encoding="utf-8"))


@cache
def _package_templates() -> dict[str, Template]:
    return _read(PACKAGE_FILE)


def _read(file: Path) -> dict[str, Template]:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{file}: cannot be read ({error.strerror}); give the path of a TOML file"
        ) from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise ValueError(f"{file}: not a TOML file: {error}") from error
    tables = document.get("templates")
    if not isinstance(tables, dict) or not tables:
        raise ValueError(f"{file}: has no [templates.NAME] table")
    return {
        name: _template(f"{file}: template {name!r}", name, table) for name, table in tables.items()
    }


def _template(where: str, name: str, table: Any) -> Template:
    _check_fields(where, table, {"classes", "instruction"})
    classes = table.get("classes")
    if not isinstance(classes, list) or not classes:
        raise ValueError(
            f"{where}: classes is {classes!r}; use a list of classes, from best to worst"
        )
    last = len(classes) - 1
    labels = tuple(
        _label(f"{where}: classes[{i}]", label, i == last) for i, label in enumerate(classes)
    )
    instruction = _texts(f"{where}: instruction", table.get("instruction", {}), TASKS)
    return Template(name=name, classes=labels, instruction=instruction)


def _label(where: str, table: Any, last: bool) -> LabelClass:
    _check_fields(where, table, {"name", "text", "score", "at_least", "above"})
    limits = [key for key in ("at_least", "above") if key in table]
    if last and (limits or "score" in table):
        raise ValueError(
            f"{where}: the last class takes the rest; remove score, at_least and above"
        )
    if not last and (len(limits) != 1 or not isinstance(table.get("score"), str)):
        raise ValueError(f"{where}: score: a condition names a score and one of at_least and above")
    for key in limits:
        if isinstance(table[key], bool) or not isinstance(table[key], int | float):
            raise ValueError(f"{where}: {key} is {table[key]!r}; use a number")
    if not isinstance(table.get("name"), str):
        raise ValueError(f"{where}: name is {table.get('name')!r}; use a string")
    texts = _texts(f"{where}: text", table.get("text"), ("default", *TASKS))
    if missing := [task for task, text in texts.items() if QUESTION not in text]:
        raise ValueError(f"{where}: text.{missing[0]} has no {QUESTION}")
    if "default" not in texts and set(texts) != set(TASKS):
        raise ValueError(f"{where}: text has no default, and not every one of {', '.join(TASKS)}")
    return LabelClass(**{**table, "text": texts})


def _texts(where: str, table: Any, allowed: Sequence[str]) -> dict[str, str]:
    _check_fields(where, table, set(allowed))
    for key, value in table.items():
        if not isinstance(value, str) or not value:
            raise ValueError(f"{where}.{key} is {value!r}; use a string")
    return dict(table)


def _check_fields(where: str, table: Any, allowed: set[str]) -> None:
    if not isinstance(table, dict):
        raise ValueError(f"{where}: is {table!r}; use a table with {', '.join(sorted(allowed))}")
    if unknown := sorted(set(table) - allowed):
        raise ValueError(f"{where}: unknown field {unknown[0]!r}; use {', '.join(sorted(allowed))}")
