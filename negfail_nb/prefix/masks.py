"""Where loss is masked: `make_example` puts loss on what the assistant wrote, `check_mask` checks.

A token carries loss if it comes from what the assistant wrote in a *trained* turn, or is the end
token of that turn. Everything else is context and gets the label -100: system and user turns, the
label in the question turn, observations, results of tools, and the chat template's own text.

Which turns are trained is decided by `negfail_nb.prefix.turns.conversation`: assistant turns behind
the question, without those of ``weight`` 0, those that only hold a thought, if ``train_on_errors``
is off, those whose action failed, and, if the template asks for it, steps of failed runs that are
not judged good. Where a turn starts and ends in the text is
found by `negfail_nb.prefix.chat.Chat.cut`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from negfail_nb.prefix.chat import Chat
from negfail_nb.prefix.rendered import Example, Rendered
from negfail_nb.prefix.tokens import Piece, decode_after
from negfail_nb.prefix.turns import THOUGHT, Conversation, Refused
from negfail_nb.settings import PrefixSettings
from negfail_nb.trajectory import Trajectory

EMPTY_THOUGHT = re.compile(r"<(\w+)>\s*</\1>")
# What may surround a thought: <think>, [THINK], <|START_THINKING|>
THOUGHT_MARK = r"(?:<[^<>\n]{1,40}>|\[[^\[\]\n]{1,40}\])?"


def make_example(
    trajectory: Trajectory,
    turns: Conversation,
    label_class: int,
    pieces: Sequence[Piece],
    encoded: Sequence[list[int]],
    chat: Chat,
    settings: PrefixSettings,
) -> Example:
    """Join the pieces' ids, put loss on the trained turns, cut at the last turn border that fits.

    Raises
    ------
    Refused
        If no turn fits, none that fits is trained, or the end token is not one token.
    """
    ids: list[int] = []
    loss: list[tuple[bool, int]] = []  # whether so many tokens carry loss
    borders: list[tuple[int, int]] = []  # turns, and where each ends
    for piece, row in zip(pieces, encoded, strict=True):
        in_trained_turn = piece.turn in turns.trained
        if piece.ends:
            # The end token of a turn, then the template's text up to the next answer.
            if row[:1] != [chat.end_id]:
                raise Refused(
                    f"the tokenizer does not read the end token {chat.end_token!r} as one token"
                )
            loss += [(in_trained_turn, 1), (False, len(row) - 1)]
            borders.append((piece.turn, len(ids) + 1))
        else:
            # Of an assistant turn, or (turn -1) context; a thought that is only shown is context.
            shown_only = piece.thought and settings.thoughts != "loss"
            loss.append((in_trained_turn and not shown_only, len(row)))
        ids += row
    length = len(ids)
    if length > settings.max_tokens:
        length = max((border for _, border in borders if border <= settings.max_tokens), default=0)
        if not length:
            raise Refused(
                f"no whole assistant turn fits in {settings.max_tokens} tokens; it has {len(ids)}"
            )
    trained = np.repeat(*zip(*loss, strict=True))[:length]
    if not trained.any():
        raise Refused("no trainable tokens: every assistant turn that fits is masked")
    kept = [t for t, border in borders if border <= length and t in turns.trained]
    thoughts = (turns.messages[turn].get(THOUGHT, "") for turn in kept)
    return Example(
        id=trajectory.id,
        question_id=trajectory.question_id,
        input_ids=np.array(ids[:length], dtype=np.int32),
        trained=trained,
        label_class=label_class,
        truncated_turns=sum(border > length for _, border in borders),
        label=turns.label,
        question=turns.question,
        turns=tuple(_written(turns.messages[turn]) for turn in kept),
        thoughts=tuple(thoughts) if settings.thoughts == "loss" else (),
        unshown=turns.unshown,
        weight=turns.weight,
        verdicts=_verdicts(pieces, encoded, turns.judged, length),
    )


def check_mask(rendered: Rendered, index: int) -> tuple[str, ...]:
    """Decode what carries loss and compare it with what the assistant wrote.

    Parameters
    ----------
    rendered, index
        Which example to check.

    Returns
    -------
    tuple of str
        What differs, in words; empty if the mask is right.

    Notes
    -----
    Only the ids and the mask are read; what was written is the record's. White space at the ends of
    a turn may differ, for many templates trim it. Any other text of the template with loss is a
    difference, but for what makes a call of a tool, or surrounds a thought that is trained. What
    the tokenizer itself does not keep (an unknown character) shows up here.
    """
    example = rendered.examples[index]
    tokenizer = rendered.tokenizer
    ids = example.input_ids.tolist()
    whole = []
    differences = []
    for start, end in _stretches(example, rendered.end_id):
        text = decode_after(tokenizer, ids[max(0, start - 4) : start], ids[start:end])
        if ids[end - 1] == rendered.end_id:
            whole.append(text.removesuffix(rendered.end_token))
        else:
            differences.append(f"{example.id}: trained without an end token: {text!r}")
    if len(whole) != len(example.turns):
        found = f"{len(whole)} trained turns with an end token"
        return (f"{example.id}: {found}, {len(example.turns)} in the trajectory", *differences)
    thoughts = example.thoughts or ("",) * len(whole)
    for text, turn, thought in zip(whole, example.turns, thoughts, strict=True):
        if not _matches(text, thought, *turn):
            written = " ".join(filter(None, (thought, *turn)))
            differences.append(f"{example.id}: trained {text!r}, written {written!r}")
    return tuple(differences)


def _written(message: dict[str, Any]) -> tuple[str, ...]:
    """What the assistant wrote in a turn: its content, and the names of the tools it called."""
    calls = message.get("tool_calls", ())
    return (message["content"], *(call.get("function", call)["name"] for call in calls))


def _verdicts(
    pieces: Sequence[Piece],
    encoded: Sequence[list[int]],
    judged: Mapping[int, tuple[str, str]],
    length: int,
) -> tuple[tuple[int, int, str, str], ...]:
    """Where each judged turn stands in the tokens, with its end token; turns cut off have none."""
    spans: dict[int, list[int]] = {}
    at = 0
    for piece, row in zip(pieces, encoded, strict=True):
        if piece.turn in judged:
            end = at + (1 if piece.ends else len(row))
            spans[piece.turn] = [spans.get(piece.turn, [at])[0], end]
        at += len(row)
    return tuple((*span, *judged[turn]) for turn, span in spans.items() if span[1] <= length)


def _stretches(example: Example, end_id: int) -> list[tuple[int, int]]:
    """Start and end of each stretch of trained tokens, cut behind each end token."""
    trained = np.concatenate([[False], example.trained, [False]])
    edges = np.flatnonzero(np.diff(trained)).reshape(-1, 2).tolist()
    ends = [int(i) + 1 for i in np.flatnonzero(example.trained & (example.input_ids == end_id))]
    found = []
    for first, last in edges:
        cuts = [first, *(i for i in ends if first < i < last), last]
        found += list(zip(cuts, cuts[1:], strict=False))
    return found


def _matches(text: str, thought: str, content: str, *calls: str) -> bool:
    """Whether a text is what was written: the thought in its marks, the content, then the calls."""
    text = text.strip()
    thought = thought.strip()
    content = content.strip()
    mark = THOUGHT_MARK
    parts = [rf"{mark}\s*{re.escape(thought)}\s*{mark}"] if thought else []
    parts += [re.escape(content)] if content else []
    called = "".join(f".*?{re.escape(name)}" for name in calls) + (".*" if calls else "")
    found = re.fullmatch(r"\s*".join([*parts, called]), text, re.DOTALL)
    invented = EMPTY_THOUGHT.match(text) and not EMPTY_THOUGHT.match(content)
    return found is not None and not invented
