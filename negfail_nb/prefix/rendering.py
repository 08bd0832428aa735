"""`render`: trajectories to token ids and a loss mask (which `negfail_nb.prefix.masks` makes)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tqdm.auto import tqdm

from negfail_nb.prefix.chat import Chat, open_chat
from negfail_nb.prefix.masks import make_example
from negfail_nb.prefix.rendered import Example, Rendered
from negfail_nb.prefix.streaming import render_stored
from negfail_nb.prefix.templates import Template, find_template, instruction_turns
from negfail_nb.prefix.tokens import Piece
from negfail_nb.prefix.turns import Conversation, Refused, conversation
from negfail_nb.quality.judging import GOOD, NOTE, Judgement, Way, judge_steps, known_ways, way_of
from negfail_nb.runs import Place
from negfail_nb.settings import PrefixSettings
from negfail_nb.steps import read_steps
from negfail_nb.stored import take
from negfail_nb.trajectory import Problem, Trajectory

log = logging.getLogger("negfail_nb")
SHOWN_REASONS = 3
BATCH = 256  # trajectories tokenised together; the result does not depend on it

Ways = Mapping[str, Way]  # what is known of the way to an answer, by question

# A trajectory, and its turns, class and pieces, or why there are none.
Cut = tuple[Trajectory, tuple[Conversation, int, list[Piece]] | Refused]


def render(
    trajectories: Iterable[Trajectory],
    template: Template | str,
    tokenizer: Any,
    settings: PrefixSettings = PrefixSettings(),
    inference: bool = False,
    folder: str | Path | Place | None = None,
) -> Rendered:
    """Render trajectories to ids and labels under a label template (arXiv 2402.11651, section 3).

    Parameters
    ----------
    trajectories
        Such as `select` returns. A template that sorts by success skips those whose outcome nobody
        knows.
    template
        The label template, or its name; of ``settings`` only its file is used then.
    tokenizer
        A tokenizer of transformers, fast or slow. It needs no pad token.
    settings
        See `PrefixSettings`.
    inference
        Give every trajectory the prompt of inference, whatever its class: for the perplexity of
        held-out successes.
    folder
        For more trajectories than memory holds: the examples are written here, some at a time, and
        are read from there. A call that was stopped goes on, and a finished one is not repeated.

    Returns
    -------
    Rendered
        The examples in the order of the trajectories, and what was skipped, with reasons; a warning
        in the log counts the most frequent ones.

    Raises
    ------
    ValueError
        If the tokenizer has no usable chat template, or a trajectory lacks a score that the
        template asks for.
    """
    if isinstance(template, str):
        template = find_template(template, settings.template_file)
    chat = open_chat(tokenizer, settings.chat_template)
    trajectories = getattr(trajectories, "trajectories", trajectories)  # of logs
    if not isinstance(trajectories, Sequence):
        trajectories = list(trajectories)
    ways = ways_for(trajectories, template, inference)
    given = {"chat": chat, "settings": settings, "inference": inference, "ways": ways}
    make = partial(_make, template=template, **given)
    if folder is not None:
        given = {"prefix": settings, "template": template, "inference": inference}
        examples, skipped = render_stored(trajectories, make, given, tokenizer, folder)
    else:
        with tqdm(total=len(trajectories), desc="render", unit="trajectory", leave=False) as bar:
            made = [(one, bar.update())[0] for one in make(trajectories)]
        examples = tuple(one for one in made if isinstance(one, Example))
        skipped = tuple(one for one in made if isinstance(one, Problem))
    rendered = Rendered(
        examples=examples,
        skipped=skipped,
        tokenizer=tokenizer,
        template=template.name,
        classes=tuple(label.name for label in template.classes),
        end_token=chat.end_token,
        inference=inference,
        thoughts=settings.thoughts,
        chat_template=chat.text,
        chat_name=settings.chat_template,
    )
    if len(skipped):
        reasons = list(rendered.skip_reasons().items())[:SHOWN_REASONS]
        text = "; ".join(f"{count} times: {reason}" for reason, count in reasons)
        counts = f"{len(skipped)} of {len(trajectories)}"
        log.warning("render: %s trajectories skipped; %s", counts, text)
    return rendered


def _make(
    trajectories: Iterable[Trajectory],
    template: Template,
    chat: Chat,
    settings: PrefixSettings,
    inference: bool,
    ways: Ways,
) -> Iterator[Example | Problem]:
    """Yield the example of each trajectory, or why there is none."""
    records = iter(trajectories)
    batches = iter(lambda: list(islice(records, BATCH)), [])
    cut = (_cut(batch, template, chat, settings, inference, ways) for batch in batches)
    for batch, encoded in _encode_ahead(cut, chat):
        for trajectory, row in batch:
            try:
                if isinstance(row, Refused):
                    raise row
                ids = list(islice(encoded, len(row[2])))
                yield make_example(trajectory, *row, ids, chat, settings)
            except Refused as refusal:
                yield problem_of(trajectory, refusal)


def in_all(rendered: Mapping[str, Rendered]) -> dict[str, Rendered]:
    """Keep the examples that every arm has whole, so that all are scored on the same tokens.

    Prompts differ in length, so what fits into the window under one label may not fit under
    another. What is left out is added to ``skipped``.

    Raises
    ------
    ValueError
        If nothing is left; the text says what to change.
    """
    whole = [
        {e.id: int(e.trained.sum()) for e in r.examples if not e.truncated_turns}
        for r in rendered.values()
    ]
    common = {i for i in whole[0] if all(w.get(i) == whole[0][i] for w in whole)}
    if not common:
        raise ValueError(_nothing_in_all(list(rendered.values())))
    kept = {}
    for name, r in rendered.items():
        reason = "not whole under every arm's prompt"
        left = tuple(Problem("", e.id, reason) for e in r.examples if e.id not in common)
        examples = take(r.examples, [i for i, e in enumerate(r.examples) if e.id in common])
        kept[name] = replace(r, examples=examples, skipped=(*r.skipped, *left))
    return kept


def _nothing_in_all(rendered: Sequence[Rendered], most: int = 3) -> str:
    given = max(len(r) + len(r.skipped) for r in rendered)
    if not given:
        return (
            "no successful run is held out for evaluation; raise quality.heldout, or give more "
            "questions"
        )
    counts = Counter(problem.reason for r in rendered for problem in r.skipped).most_common(most)
    reasons = "; ".join(f"{reason} ({count} times)" for reason, count in counts)
    return (
        f"none of {given} held-out successes is whole under every arm's prompt; raise "
        "prefix.max_tokens or quality.heldout. Reasons: " + (reasons or "all were cut short")
    )


def ways_for(
    trajectories: Iterable[Trajectory], template: Template, inference: bool = False
) -> Ways:
    """Return what trajectories of a question say about its failed runs, if steps are judged."""
    return known_ways(trajectories) if template.judged and not inference else {}


def prepare(
    trajectory: Trajectory,
    template: Template,
    settings: PrefixSettings,
    inference: bool = False,
    ways: Ways = MappingProxyType({}),
) -> tuple[Conversation, int]:
    """Return the labelled turns of a trajectory and the index of its class.

    ``ways`` is what `ways_for` returned.

    Raises
    ------
    ValueError
        `Refused` if it cannot be rendered; a plain one if it lacks a score that the template asks
        for.
    """
    if inference:
        label_class = 0  # the best class is what a model is asked with
    elif trajectory.success is None and _needs_outcome(template):
        raise Refused("whether it succeeded is unknown, and the template sorts by that")
    else:
        label_class = template.classify(trajectory)

    def label(question: str) -> str:
        return template.text(question, trajectory.task, label_class)

    instruction = instruction_turns(template, trajectory.task) if settings.instruction else ()
    errors = () if settings.train_on_errors else (s for s in read_steps(trajectory) if s.error)
    judged = () if inference or not template.judged else _judged(trajectory, ways)
    masked = {step.message for step in errors} | {j.message for j in judged if j.verdict != GOOD}
    given = label, instruction, frozenset(masked), settings.thoughts
    turns = conversation(_without_notes(trajectory), *given)
    if judged and not turns.trained:
        raise Refused("no step of this failed run is judged good")
    told = {j.message + turns.added: (j.verdict, j.reason) for j in judged}
    weight = 1.0 if inference else _weight(trajectory, template)
    return replace(turns, judged=told, weight=weight), label_class


def _needs_outcome(template: Template) -> bool:
    return "success" in template.scores or template.judged or bool(template.weighed_by)


def _without_notes(trajectory: Trajectory) -> Trajectory:
    """The run without the verdicts in its messages, which no chat template or export knows."""
    if not any(NOTE in message for message in trajectory.messages):
        return trajectory
    messages = ({k: v for k, v in m.items() if k != NOTE} for m in trajectory.messages)
    return trajectory.replace(messages=tuple(messages))


def _judged(trajectory: Trajectory, ways: Ways) -> tuple[Judgement, ...]:
    return judge_steps(trajectory, way_of(trajectory, ways))


def _weight(trajectory: Trajectory, template: Template) -> float:
    weight = template.weight(trajectory)
    if not weight:
        raise Refused(
            f"its score {template.weighed_by!r} is 0, so that its loss would count nothing"
        )
    return weight


def problem_of(trajectory: Trajectory, refusal: Refused) -> Problem:
    """Return the entry of ``skipped``: file and record that a trajectory comes from, and why."""
    source = trajectory.source
    return Problem(source.file or "trajectory", source.record or trajectory.id, str(refusal))


def _cut(
    batch: Sequence[Trajectory],
    template: Template,
    chat: Chat,
    settings: PrefixSettings,
    inference: bool,
    ways: Ways,
) -> list[Cut]:
    prepared: list[tuple[Conversation, int] | Refused] = []
    for trajectory in batch:
        try:
            turns, label_class = prepare(trajectory, template, settings, inference, ways)
            prepared.append((turns.fold_system() if chat.folds_system else turns, label_class))
        except Refused as refusal:
            prepared.append(refusal)
    pieces = iter(chat.cut([p[0] for p in prepared if not isinstance(p, Refused)]))
    cut: list[Cut] = []
    for trajectory, known in zip(batch, prepared, strict=True):
        row = known if isinstance(known, Refused) else next(pieces)
        cut.append((trajectory, row if isinstance(row, Refused) else (*known, row)))
    return cut


def _encode_ahead(
    batches: Iterable[list[Cut]], chat: Chat
) -> Iterator[tuple[list[Cut], Iterator[list[int]]]]:
    """Yield each batch with the ids of its pieces.

    One batch is tokenised, without Python's lock, while the next is cut.
    """
    with ThreadPoolExecutor(1) as worker:
        waiting = []
        for batch in batches:
            pieces = [piece for _, row in batch if not isinstance(row, Refused) for piece in row[2]]
            waiting.append((batch, worker.submit(chat.pieces_tokenizer.encode, pieces)))
            if len(waiting) > 1:
                batch, future = waiting.pop(0)
                yield batch, iter(future.result())
        for batch, future in waiting:
            yield batch, iter(future.result())
