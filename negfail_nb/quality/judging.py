"""Which steps of a failed run are worth learning: a verdict on each turn of the agent.

Keeping the useful steps of failed runs in the loss, and the harmful ones out of it, is the idea of
EEF (arXiv 2504.13145); the rules here are ours, and read the record only. A rule is one small
function under ``@step_rule``; the first that has something to say decides. What no rule judges is
unknown, not bad. A verdict that is noted in a message (by a model, see `negfail_nb.quality.judge`,
or by hand) comes before all rules.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import floor
from types import MappingProxyType
from typing import Any

from negfail_nb.duplicates import question_key
from negfail_nb.grading import normalize_answer
from negfail_nb.numeric import parse_number
from negfail_nb.quality.answers import same_answer
from negfail_nb.quality.failures import Run, calls_of, has_words, invents, read
from negfail_nb.quality.sums import invented_number, results, rounded, shortest, slip, worked
from negfail_nb.steps import Step, text
from negfail_nb.trajectory import Trajectory

GOOD, BAD, UNKNOWN = VERDICTS = ("good", "bad", "unknown")
NOTE = "judged"  # the field of a message that holds a verdict
BY_RULES = "rules"
USUAL = 0.1  # share of the solved runs of a question
SHOWN = 60  # characters of a log's text in a reason
SHORTEST = 3  # characters of an answer that is looked for in what a search found

Verdict = tuple[str, str]  # and its reason


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict on one turn of the agent.

    Attributes
    ----------
    message
        Index of the turn in ``trajectory.messages``.
    verdict
        ``good``, ``bad`` or ``unknown``.
    reason
        Why, in a few words; text of the log may be quoted.
    by
        ``"rules"``, or who noted it.
    """

    message: int
    verdict: str
    reason: str
    by: str = BY_RULES


@dataclass(frozen=True, slots=True)
class Way:
    """What runs of a question say about the way to its answer.

    Attributes
    ----------
    values, calls
        Results that solved runs got, and calls that they made.
    wrong
        Numbers that were answered, and are wrong. A result that is one of them, rounded or cut,
        is unknown: a solved run may have got it on a detour.
    """

    values: frozenset[Fraction] = frozenset()
    calls: frozenset[tuple[str, str]] = frozenset()
    wrong: frozenset[Fraction] = frozenset()


@dataclass(frozen=True)
class Place:
    """A step where it stands: in a run, as its turn ``number`` from 0; what is known of the way."""

    run: Run
    number: int
    way: Way = field(default=Way())

    @cached_property
    def step(self) -> Step:
        """The step."""
        return self.run.steps[self.number]

    @cached_property
    def earlier(self) -> Sequence[Step]:
        """The steps before it."""
        return self.run.steps[: self.number]

    @cached_property
    def written(self) -> str:
        """What the agent wrote in this turn."""
        return text(self.run.trajectory.messages[self.step.message])

    @cached_property
    def before(self) -> str:
        """The question and all turns before this one."""
        turns = self.run.trajectory.messages[: self.step.message]
        return "\n".join((self.run.trajectory.question, *map(text, turns)))

    @cached_property
    def numbers(self) -> frozenset[Fraction]:
        """Numbers on a known way to the answer."""
        return self.way.values | worked(self.run.trajectory.answer)

    @property
    def answer(self) -> str | None:
        """What it answers, if it finishes."""
        return next((a.argument for a in self.step.actions if a.is_finish), None)


Rule = Callable[[Place], Verdict | None]
RULES: list[Rule] = []


def step_rule(rule: Rule) -> Rule:
    """Register a rule behind the others; its docstring says what it is."""
    RULES.append(rule)
    return rule


@step_rule
def malformed(place: Place) -> Verdict | None:
    """No valid action: none can be read, or the environment refused it."""
    step = place.step
    return (BAD, f"malformed action: {step.reason}") if step.error == "parse" else None


@step_rule
def failed_tool(place: Place) -> Verdict | None:
    """The tool reported an error."""
    if place.step.error != "tool":
        return None
    return BAD, f"the tool reports an error: {_shown(place.step.observation)}"


@step_rule
def invented_observation(place: Place) -> Verdict | None:
    """The agent writes an observation itself."""
    return (BAD, "writes an observation itself") if invents(place.written) else None


@step_rule
def repeated(place: Place) -> Verdict | None:
    """All its calls were made before, or one of them twice."""
    calls = [] if place.answer is not None else calls_of(place.step)
    if len(set(calls)) < len(calls):
        return BAD, "repeats a call within the turn"
    made = {call: n for n in reversed(range(place.number)) for call in calls_of(place.run.steps[n])}
    if not calls or not all(call in made for call in calls):
        return None
    return BAD, f"repeats turn {made[calls[0]] + 1}"


@step_rule
def wrong_answer(place: Place) -> Verdict | None:
    """It finishes: the answer of a failed run is wrong, unless only its form is."""
    answer, reference = place.answer, place.run.trajectory.answer
    if answer is None:
        return None
    if answer.strip() and reference and same_answer(answer, reference):
        return UNKNOWN, f"the right answer, judged wrong: {_shown(answer)}"
    known = f"; right is {_shown(reference)}" if reference else ""
    return BAD, f"a wrong answer: {_shown(answer)}{known}{_unseen(place, answer)}"


@step_rule
def wrong_sum(place: Place) -> Verdict | None:
    """It states a sum that does not hold."""
    found = slip(place.written)
    return (BAD, f"writes {_shown(found[0])}, which is {found[1]}") if found else None


@step_rule
def number_from_nowhere(place: Place) -> Verdict | None:
    """A calculation with a number that is neither in the question nor in what came before it."""
    for action in place.step.actions:
        lead = place.written.partition(action.argument or "\n")[0]
        number = invented_number(action, place.before, lead)
        if number:
            last = next((r for s in reversed(place.earlier) for r in results(s.observation)), None)
            return BAD, f"uses {number}, which is nowhere before" + (
                f"; the last result is {shortest(last)}" if last is not None else ""
            )
    return None


@step_rule
def silent(place: Place) -> Verdict | None:
    """It does nothing that could be judged."""
    return None if place.step.actions else (UNKNOWN, "no action")


@step_rule
def calculation(place: Place) -> Verdict | None:
    """In a math problem: whether the result is on the way to the answer, where a way is known."""
    if place.run.trajectory.task != "math":
        return None
    found = results(place.step.observation)
    if not found:
        return UNKNOWN, "no single number comes back"
    last, shown = found[-1], shortest(found[-1])
    before = {value for step in place.earlier for value in results(step.observation)}
    answered = last == _value(place.run.trajectory.answer)
    if not answered and not place.numbers:
        return UNKNOWN, "no way to the answer is known"
    if not answered and last not in place.numbers:
        several = len(set(found)) > 1
        return UNKNOWN if several else BAD, f"its result {shown} is on no known way to the answer"
    if last in before:
        return UNKNOWN, f"its result {shown} was known before"
    if answered:
        return GOOD, f"its result {shown} is the reference answer"
    if place.way.wrong & {last, floor(last), round(last)}:
        return UNKNOWN, f"its result {shown} is on a known way, and a wrong answer of some run"
    return GOOD, f"its result {shown} is on a known way to the answer"


@step_rule
def gold_passage(place: Place) -> Verdict | None:
    """Where gold titles are known: whether it finds one that was not found before."""
    titles = place.run.trajectory.gold_titles
    if not titles:
        return None
    found = [_titles(step, titles) for step in place.run.steps]
    here = found[place.number]
    known = set().union(*found[: place.number])
    if new := [title for title in titles if title in here - known]:
        return GOOD, f"finds the gold passage {_shown(new[0])}"
    if here:
        return UNKNOWN, "finds only gold passages that were found before"
    others = [n + 1 for n, some in enumerate(found) if some]
    if others:
        return BAD, f"leads away from gold: turn {others[0]} finds some"
    return UNKNOWN, "finds no gold passage, as all other turns"


@step_rule
def reference_found(place: Place) -> Verdict | None:
    """Without gold titles: whether it is the first to find the words of the reference answer."""
    trajectory = place.run.trajectory
    words = normalize_answer(trajectory.answer)
    plain = trajectory.task == "yes_no" or words in ("yes", "no") or len(words) < SHORTEST
    if plain or has_words(normalize_answer(place.before), words):
        return None
    if has_words(normalize_answer(place.step.observation), words):
        return GOOD, f"finds the reference answer {_shown(trajectory.answer)}"
    return None


@step_rule
def solved_so(place: Place) -> Verdict | None:
    """A solved run of the same question made the same calls."""
    calls = calls_of(place.step)
    if calls and all(call in place.way.calls for call in calls):
        return GOOD, "a solved run of this question made this call"
    return None


def judge_steps(trajectory: Trajectory, way: Way = Way()) -> tuple[Judgement, ...]:
    """Return a verdict on each turn of the agent in a failed run, in order; of other runs none.

    Parameters
    ----------
    trajectory
        Its messages may hold verdicts of their own, which count first.
    way
        What is known of the way to the answer, see `known_ways`.

    Raises
    ------
    ValueError
        If a message holds something else than a verdict.
    """
    if trajectory.success is not False:
        return ()
    run = read(trajectory)
    places = (Place(run, number, way) for number in range(len(run.steps)))
    return tuple(_noted(place) or _ruled(place) for place in places)


def known_ways(trajectories: Iterable[Trajectory]) -> dict[str, Way]:
    """Return what runs say about the way to the answer of their question, by `way_key`.

    Of each solved run the steps without an error count that stand behind the last answer that was
    not its final one: what led to a rejected answer is no way. What fewer than a tenth of the
    solved runs have may be a detour. Of failed runs, and of rejected answers, the answers count.
    """
    walked: dict[str, list[Way]] = defaultdict(list)
    wrong: dict[str, set[Fraction]] = defaultdict(set)
    for trajectory in trajectories:
        key, run = way_key(trajectory), read(trajectory)
        wrong[key].update(_wrong(run))
        if trajectory.success:
            walked[key].append(_walked(run))
    return {
        key: Way(
            _usual([way.values for way in walked[key]]),
            _usual([way.calls for way in walked[key]]),
            frozenset(numbers),
        )
        for key, numbers in wrong.items()
    }


def way_key(trajectory: Trajectory) -> str:
    """Return which question a run is of: its normalised text, or its id without one."""
    return question_key(trajectory.question) or f"id {trajectory.question_id}"


def way_of(trajectory: Trajectory, ways: Mapping[str, Way] = MappingProxyType({})) -> Way:
    """Return what is known of the way to a run's answer."""
    return ways.get(way_key(trajectory), Way()) if ways else Way()


def _wrong(run: Run) -> set[Fraction]:
    """Numbers that a run answered and that are wrong: of a solved run all but the last."""
    answers = [a.argument for step in run.steps for a in step.actions if a.is_finish]
    found = set(map(_value, answers[:-1] if run.trajectory.success else answers))
    return found - {None, _value(run.trajectory.answer)}


def _usual(found: Sequence[frozenset[Any]]) -> frozenset[Any]:
    """What at least a share of some sets have."""
    counts = Counter(one for some in found for one in some)
    return frozenset(one for one, count in counts.items() if count >= USUAL * len(found))


def _walked(run: Run) -> Way:
    places = [n for n, step in enumerate(run.steps) if any(a.is_finish for a in step.actions)]
    start = places[-2] + 1 if len(places) > 1 else 0
    steps = [step for step in run.steps[start:] if not step.error]
    values = (value for step in steps for value in results(step.observation))
    return Way(frozenset(values), frozenset(call for step in steps for call in calls_of(step)))


def _noted(place: Place) -> Judgement | None:
    note = place.run.trajectory.messages[place.step.message].get(NOTE)
    if note is None:
        return None
    if not isinstance(note, Mapping) or note.get("verdict") not in VERDICTS:
        raise ValueError(
            f"trajectory {place.run.trajectory.id!r}, message {place.step.message}: {NOTE} is "
            f'{note!r}; write {{"verdict": "good", "reason": ".."}} with one of '
            f"{', '.join(VERDICTS)}"
        )
    reason, by = (str(note.get(name) or "") for name in ("reason", "by"))
    return Judgement(place.step.message, note["verdict"], reason, by or "a note")


def _ruled(place: Place) -> Judgement:
    found = (rule(place) for rule in RULES)
    verdict, reason = next((v for v in found if v), (UNKNOWN, "no rule judges it"))
    return Judgement(place.step.message, verdict, reason)


def _unseen(place: Place, answer: str) -> str:
    """Say so if a math answer is no result of any calculation, though there were some."""
    seen = [value for step in place.earlier for value in results(step.observation)]
    value = _value(answer)
    if place.run.trajectory.task != "math" or value is None or not seen or value in seen:
        return ""
    return f"; no calculation gave it, the last gave {shortest(seen[-1])}"


def _value(answer: str) -> Fraction | None:
    number = parse_number(answer)
    return None if number is None else rounded(number)


def _titles(step: Step, titles: Sequence[str]) -> set[str]:
    seen = step.observation.lower()
    return {title for title in titles if has_words(seen, title.lower())}


def _shown(words: str) -> str:
    line = " ".join(words.split())
    return repr(line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…")
