"""ReAct text: plain files, and Reflexion's logs of trials."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from negfail_nb.logs.jsontext import Line, too_large
from negfail_nb.logs.reading import LogFile, logger
from negfail_nb.logs.registry import importer
from negfail_nb.logs.written import PART, split_turns
from negfail_nb.trajectory import Problem, Source, Trajectory

_QUESTION = re.compile(r"^[ \t]*Question(?:[ \t]*\d+)?[ \t]*:[ \t]*", re.IGNORECASE)
_REFERENCE = re.compile(
    r"^[ \t]*(?:Correct|Gold|Reference)[ \t]+answer[ \t]*:[ \t]*(.*)$", re.IGNORECASE
)
_VERDICT = re.compile(r"\bAnswer is (CORRECT|INCORRECT)\b")
_VERDICT_LINE = re.compile(
    r"^[ \t]*Observation[ \t]*\d*[ \t]*:[ \t]*Answer is (?:CORRECT|INCORRECT)\b"
)
_REFLECTIONS = re.compile(r"^[ \t]*Reflections?:")
_CONTEXT = re.compile(r"^[ \t]*Context:[ \t]*")
_HEADING = re.compile(r"^(?:#{3,}|Trial summary:)")
# An agent is shown its last trial between these lines; it is no attempt of its own.
_PREVIOUS = re.compile(r"Below is the last trial you attempted")
_PREVIOUS_ENDS = re.compile(r"^\(END PREVIOUS TRIAL\)")
_FINISH = re.compile(
    r"^[ \t]*(?:Action[ \t]*\d*[ \t]*:[ \t]*(?:finish|final[ _-]?answer|answer|submit)\b"
    r"|Final Answer[ \t]*:)",
    re.IGNORECASE,
)
_TRIAL = re.compile(r"^BEGIN TRIAL (\d+)[ \t]*$")
_SECTION = re.compile(r"^-{3,} *BEGIN (CORRECT|INCORRECT|HALTED) AGENTS *-{3,}[ \t]*$")
_ASKS = re.compile(_QUESTION.pattern, re.IGNORECASE | re.MULTILINE)
_ACTS = re.compile(r"^[ \t]*(?:Action|Thought)[ \t]*\d*[ \t]*:", re.IGNORECASE | re.MULTILINE)
# Reflexion writes its reflections behind the question; the sentence is the original's own.
_REFLECTION = re.compile(
    r"You have attempted to answer (?:the )?following question before and failed\.|^Reflections:",
    re.MULTILINE,
)


class Block(NamedTuple):
    """The lines of one attempt, from its question on, and where in the log it stands.

    ``before`` is what stood before the question and was shown to the agent: passages, its last
    trial.
    """

    lines: list[Line]
    trial: int = 0
    section: str = ""
    number: int = 0
    before: tuple[Line, ...] = ()

    @property
    def where(self) -> str:
        """The line at which the attempt begins."""
        return f"line {self.lines[0].number}"


@importer(
    "react",
    looks_like=lambda log: bool(_ASKS.search(log.text) and _ACTS.search(log.text)),
    fields="lines `Question:` and `Thought:` or `Action:`",
)
def react(log: LogFile) -> Iterator[Trajectory | Problem]:
    """Plain ReAct text, LangChain's too: a question, then thoughts, actions and observations.

    A question at the start, after a blank line, a finishing action or a verdict begins an attempt;
    any other is quoted. An attempt is labelled if its last observation says "Answer is CORRECT" or
    INCORRECT, or a line "Correct answer:" gives the reference.
    """
    yield from _attempts(log, _blocks(log))


@importer(
    "reflexion",
    looks_like=lambda log: bool(re.search(_SECTION.pattern, log.text, re.MULTILINE)),
    fields="a line `BEGIN CORRECT AGENTS` or the like, then `Question:` lines",
)
def reflexion(log: LogFile) -> Iterator[Trajectory | Problem]:
    """Reflexion's text logs: trials, in each the sections CORRECT, INCORRECT and HALTED
    (noahshinn/reflexion).

    The section is the label. Every block becomes a trajectory, also one that stands in two
    sections, and one that was solved in an earlier trial and has no turns. An attempt ends with its
    verdict: what follows, and a last trial that is quoted, was shown to the agent and stands in the
    first turn.
    """
    yield from _attempts(log, _trial_blocks(log))


def _blocks(log: LogFile) -> Iterator[Block]:
    """Yield the attempts of a plain file: each begins with its question."""
    block = None
    before = []
    over = True
    may_begin = True
    for line in log.lines():
        if may_begin and _QUESTION.match(line.text):
            if block:
                yield block
            block = Block([line], number=block.number + 1 if block else 1)
            over = may_begin = False
            continue
        (block.lines if block else before).append(line)
        if block and _QUESTION.match(line.text):
            what = "taken for a quoted question; one of its own follows a blank line"
            logger.warning("%s:line %d: %s", log.name, line.number, what)
        ended = any(pattern.search(line.text) for pattern in (_FINISH, _VERDICT, _REFERENCE))
        # What ended stays so until the agent goes on; after a blank line only the very next one
        # counts.
        over = block is None or ended or (over and not _ACTS.match(line.text))
        may_begin = over or not line.text.strip()
    if block:
        _report_before(log, before)
        yield block


def _report_before(log: LogFile, lines: list[Line]) -> None:
    """Report turns before the first question; other text there is only a heading."""
    turns = [line for line in lines if PART.match(line.text)]
    filled = sum(bool(line.text.strip()) for line in lines)
    if turns:
        reason = f"{len(turns)} turns stand before the first question; they are left out"
        log.report(f"line {turns[0].number}", reason)
    elif filled:
        logger.warning("%s: %d lines before the first question are left out", log.name, filled)


def _trial_blocks(log: LogFile) -> Iterator[Block]:
    """Yield the attempts of a log of trials: from a question to its "Correct answer:", the next
    question or heading.

    Only at the end of a log, others of which have that line, is its lack a sign of a cut.
    """
    block = None
    before = []
    trial = 0
    section = ""
    number = 0
    blank = True
    quoted = False
    referenced = False
    for line in log.lines():
        heading = _TRIAL.match(line.text) or _SECTION.match(line.text)
        quoted = not heading and (quoted or bool(_PREVIOUS.search(line.text)))
        question = not quoted and _QUESTION.match(line.text) and (block is None or blank)
        if block and (heading or question):
            after = _next_context(block)
            yield block
            block = None
            before = after
        if heading:
            trial, number = (int(heading[1]), 0) if heading[1].isdigit() else (trial, number)
            section = section if heading[1].isdigit() else heading[1]
            before = []
        elif question:
            number += 1
            block = Block([line], trial, section, number, tuple(before))
            before = []
        elif block:
            block.lines.append(line)
            if not quoted and _REFERENCE.match(line.text):
                referenced = True
                yield block
                block = None
        elif line.problem:
            yield Block([line])
        elif not _HEADING.match(line.text):
            before.append(line)
        quoted = quoted and not _PREVIOUS_ENDS.match(line.text)
        blank = not line.text.strip()
    if block and referenced and not any(_VERDICT_LINE.match(line.text) for line in block.lines):
        log.report(block.where, "the attempt has no line 'Correct answer:'; was the log cut off?")
    elif block:
        yield block


def _next_context(block: Block) -> list[Line]:
    """Cut off and return what follows the verdict of an attempt: the next question's context."""
    ended = False
    for number, line in enumerate(block.lines):
        ended = ended or bool(_VERDICT_LINE.match(line.text))
        if ended and not line.text.strip():
            after = block.lines[number:]
            del block.lines[number:]
            return after
    return []


def _attempts(log: LogFile, blocks: Iterable[Block]) -> Iterator[Trajectory]:
    count = 0
    for count, block in enumerate(blocks, 1):  # noqa: B007
        yield from log.attempt(block.where, lambda block=block: _trajectory(log, block))
    if count == 0:
        log.report("", "no line starts with 'Question:', so there is no attempt in it")


def _trajectory(log: LogFile, block: Block) -> Trajectory:
    _check(log, block)
    lines = [line.text for line in block.lines]
    found = [number for number, line in enumerate(lines) if _REFERENCE.match(line)]
    answer = _REFERENCE.match(lines[found[-1]])[1].strip() if found else ""
    own, after = _own_lines(lines[1 : found[-1]] if found else lines[1:], bool(block.section))
    before, turns = split_turns(own)
    asked = f"{_QUESTION.sub('', lines[0])}\n{before}".strip()
    question = _REFLECTION.split(asked, maxsplit=1)[0].strip()
    context = _shown(line.text for line in block.before)
    prompt = (context, question, asked[len(question) :].strip(), _shown(after))
    observed = (m["content"] for m in reversed(turns) if m["role"] == "user")
    verdict = _VERDICT.search(next(observed, ""))
    label = block.section or (verdict[1] if verdict else "")
    number = f"t{block.trial}:{block.number}" if block.section else f"{block.number}"
    return log.trajectory(
        block.where,
        id=f"{log.format}:{log.name}:{number}",
        question=question,
        answer=answer,
        messages=[{"role": "user", "content": "\n".join(filter(None, prompt))}, *turns],
        success={"CORRECT": True, "INCORRECT": False, "HALTED": False}.get(label),
        termination="max_steps" if turns and block.section == "HALTED" and not verdict else "",
        source=Source(attempt=block.trial),
    )


def _own_lines(lines: list[str], sections: bool) -> tuple[list[str], list[str]]:
    """Split an attempt into its own lines and those that were shown to the agent: reflections, its
    last trial.

    In a log of trials the verdict ends the attempt; elsewhere an agent may go on, unless
    reflections follow.
    """
    own: list[str] = []
    shown: list[str] = []
    quoted = ended = False
    for number, line in enumerate(lines):
        begins = bool(_PREVIOUS.search(line))
        (shown if quoted or ended or begins else own).append(line)
        quoted = (quoted or begins) and not _PREVIOUS_ENDS.match(line)
        following = lines[number + 1] if number + 1 < len(lines) else ""
        verdict = not quoted and bool(_VERDICT_LINE.match(line))
        ended = ended or (verdict and (sections or bool(_REFLECTIONS.match(following))))
    return own, shown


def _shown(lines: Iterable[str]) -> str:
    """Return text that was shown to the agent, ``""`` if only its headings stand there."""
    text = "\n".join(lines).strip()
    empty = not _CONTEXT.sub("", _REFLECTIONS.sub("", text)).strip()
    return "" if empty else text


def _check(log: LogFile, block: Block) -> None:
    for line in block.lines:
        if line.problem:
            raise ValueError(f"line {line.number}: {line.problem}")
    size = sum(len(line.text) + 1 for line in block.lines)
    if size > log.limit:
        raise ValueError(too_large(size, log.limit))
