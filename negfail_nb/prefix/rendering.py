"""Trajectories to token ids and a loss mask: loss on what the assistant wrote and on its end token,
nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from negfail_nb.prefix.chat import Chat, open_chat
from negfail_nb.prefix.rendered import Example, Rendered
from negfail_nb.prefix.templates import Template, find_template, instruction_turns
from negfail_nb.prefix.tokens import Piece
from negfail_nb.prefix.turns import THOUGHT, Conversation, Refused, conversation
from negfail_nb.settings import PrefixSettings
from negfail_nb.trajectory import Problem, Trajectory

log = logging.getLogger("negfail_nb")
SHOWN_REASONS = 3
BATCH = 256  # trajectories tokenised together; the result does not depend on it


def render(
    trajectories: Iterable[Trajectory],
    template: Template | str,
    tokenizer: Any,
    settings: PrefixSettings = PrefixSettings(),  # noqa: B008 (frozen)
    inference: bool = False,
) -> Rendered:
    """Render trajectories to ids and labels under a label template (arXiv 2402.11651, section 3).

    Parameters
    ----------
    trajectories
        With or without success; a template that sorts by success skips those whose outcome nobody
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

    Returns
    -------
    Rendered
        The examples in the order of the trajectories, and what was skipped, with reasons; a warning
        in the log counts the most frequent ones.

    Raises
    ------
    ValueError
        Where the tokenizer has no usable chat template, or a trajectory lacks a score that the
        template asks for.
    """
    if isinstance(template, str):
        template = find_template(template, settings.template_file)
    chat = open_chat(tokenizer, settings.chat_template)
    examples: list[Example] = []
    skipped: list[Problem] = []
    trajectories = list(trajectories)
    progress = tqdm(total=len(trajectories), desc="render", unit="trajectory", leave=False)
    batches = (
        _cut(batch, template, chat, settings, inference) for batch in _batches(trajectories, BATCH)
    )
    with progress:
        for batch, encoded in _encode_ahead(batches, chat):
            for trajectory, result in _results(batch, encoded, chat, settings):
                if isinstance(result, Refused):
                    skipped.append(problem_of(trajectory, result))
                else:
                    examples.append(result)
            progress.update(len(batch))
    rendered = Rendered(
        examples=tuple(examples),
        skipped=tuple(skipped),
        tokenizer=tokenizer,
        template=template.name,
        classes=tuple(label.name for label in template.classes),
        end_token=chat.end_token,
        inference=inference,
        thoughts=settings.thoughts,
        chat_template=chat.text,
        chat_name=settings.chat_template,
    )
    if skipped:
        reasons = list(rendered.skip_reasons().items())[:SHOWN_REASONS]
        text = "; ".join(f"{count} times: {reason}" for reason, count in reasons)
        log.warning(
            "render: %d of %d trajectories skipped; %s", len(skipped), len(trajectories), text
        )
    return rendered


def prepare(
    trajectory: Trajectory, template: Template, settings: PrefixSettings, inference: bool = False
) -> tuple[Conversation, int]:
    """Return the labelled turns of a trajectory and the index of its class.

    Raises
    ------
    ValueError
        `Refused` where it cannot be rendered; a plain one where it lacks a score that the template
        asks for.
    """
    if inference:
        label_class = 0
    elif trajectory.success is None and "success" in template.scores:
        raise Refused("whether it succeeded is unknown, and the template sorts by that")
    else:
        label_class = template.classify(trajectory)

    def label(question: str) -> str:
        if inference:
            return template.inference(question, trajectory.task)
        return template.text(question, trajectory.task, label_class)

    instruction = instruction_turns(template, trajectory.task) if settings.instruction else ()
    masked = frozenset() if settings.train_on_errors else _errors(trajectory)
    return conversation(trajectory, label, instruction, masked, settings.thoughts), label_class


# A trajectory, and its turns, class and pieces, or why there are none.
Cut = tuple[Trajectory, tuple[Conversation, int, list[Piece]] | Refused]


def _cut(
    batch: Sequence[Trajectory],
    template: Template,
    chat: Chat,
    settings: PrefixSettings,
    inference: bool,
) -> list[Cut]:
    prepared = [_try(lambda t=t: prepare(t, template, settings, inference)) for t in batch]
    if chat.folds_system:
        prepared = [p if isinstance(p, Refused) else (p[0].fold_system(), p[1]) for p in prepared]
    pieces = iter(chat.cut([p[0] for p in prepared if not isinstance(p, Refused)]))
    cut = []
    for trajectory, known in zip(batch, prepared, strict=True):
        row = known if isinstance(known, Refused) else next(pieces)
        cut.append((trajectory, row if isinstance(row, Refused) else (*known, row)))
    return cut


def _encode_ahead(
    batches: Iterable[list[Cut]], chat: Chat
) -> Iterator[tuple[list[Cut], Iterator[list[int]]]]:
    """Yield each batch with the ids of its pieces; one is tokenised, without Python's lock, while
    the next is cut.
    """
    with ThreadPoolExecutor(1) as worker:
        waiting: list[tuple[list[Cut], Future]] = []
        for batch in batches:
            pieces = [piece for _, row in batch if not isinstance(row, Refused) for piece in row[2]]
            waiting.append((batch, worker.submit(chat.pieces_tokenizer.encode, pieces)))
            if len(waiting) > 1:
                batch, future = waiting.pop(0)
                yield batch, iter(future.result())
        for batch, future in waiting:
            yield batch, iter(future.result())


def _results(
    batch: Sequence[Cut], encoded: Iterator[list[int]], chat: Chat, settings: PrefixSettings
) -> Iterator[tuple[Trajectory, Example | Refused]]:
    for trajectory, row in batch:
        if isinstance(row, Refused):
            yield trajectory, row
        else:
            ids = list(islice(encoded, len(row[2])))
            yield (
                trajectory,
                _try(lambda t=trajectory, r=row, i=ids: _example(t, *r, i, chat, settings)),
            )


def _example(
    trajectory: Trajectory,
    turns: Conversation,
    label_class: int,
    pieces: Sequence[Piece],
    encoded: Sequence[list[int]],
    chat: Chat,
    settings: PrefixSettings,
) -> Example:
    """Join the pieces, put loss on the trained turns, cut at the last turn border that fits."""
    ids: list[int] = []
    spans, borders = [], []
    for piece, row in zip(pieces, encoded, strict=True):
        if piece.ends:
            if row[:1] != [chat.end_id]:
                raise Refused(
                    f"the tokenizer does not read the end token {chat.end_token!r} as one token"
                )
            spans += [(len(ids), len(ids) + 1)] if piece.turn in turns.trained else []
            borders.append((piece.turn, len(ids) + 1))
        elif piece.turn in turns.trained and (settings.thoughts == "loss" or not piece.thought):
            spans.append((len(ids), len(ids) + len(row)))
        ids += row
    length = len(ids)
    if length > settings.max_tokens:
        length = max((border for _, border in borders if border <= settings.max_tokens), default=0)
        if not length:
            raise Refused(
                f"no whole assistant turn fits in {settings.max_tokens} tokens; it has {len(ids)}"
            )
    mask = np.zeros(len(ids), dtype=bool)
    for start, end in spans:
        mask[start:end] = True
    if not mask[:length].any():
        raise Refused("no trainable tokens: every assistant turn that fits is masked")
    kept = [turn for turn, border in borders if border <= length and turn in turns.trained]
    return Example(
        id=trajectory.id,
        question_id=trajectory.question_id,
        input_ids=np.array(ids[:length], dtype=np.int32),
        trained=mask[:length],
        label_class=label_class,
        truncated_turns=sum(border > length for _, border in borders),
        label=turns.label,
        question=turns.question,
        turns=tuple(_written(turns.messages[turn]) for turn in kept),
        thoughts=tuple(turns.messages[turn].get(THOUGHT, "") for turn in kept)
        if settings.thoughts == "loss"
        else (),
        unshown=turns.unshown,
    )


def _written(message: dict[str, Any]) -> tuple[str, ...]:
    """Return what the assistant wrote in a turn: its content, and the names of the tools that it
    called.
    """
    return (
        message["content"],
        *(call.get("function", call)["name"] for call in message.get("tool_calls", ())),
    )


def _errors(trajectory: Trajectory) -> frozenset[int]:
    from negfail_nb.steps import read_steps

    return frozenset(step.message for step in read_steps(trajectory) if step.error)


def _try(build: Callable[[], Any]) -> Any:
    try:
        return build()
    except Refused as refusal:
        return refusal


def problem_of(trajectory: Trajectory, refusal: Refused) -> Problem:
    """Return the entry of the skipped ones: file and record that a trajectory comes from, and why."""
    source = trajectory.source
    return Problem(source.file or "trajectory", source.record or trajectory.id, str(refusal))


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch
