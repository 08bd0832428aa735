"""What a model said, apart from what it only thought: the private reasoning of reasoning models.

Such models write a thought into their reply, between tags of their family. A thought is no action
and no answer: parser, grader and importers read what was said. A message holds the two as
``content`` and ``reasoning_content``.
"""

from __future__ import annotations

import re

from negfail_nb.trajectory import Message

# Marks that open and close a thought: <think> of DeepSeek, Qwen and most others, also with a prefix
# (<seed:think>) or a suffix (<think:x>); then Magistral, Kimi, Cohere, Sky-T1, Gemma 4, GPT-OSS.
_WORDS = "think|thinking|thought|thoughts|reasoning|reason|scratchpad|analysis|reflection"
_TAG = re.compile(
    rf"[<\[\u25c1](?:(?<=<)\s*(?P<close>/?)\s*(?:[\w-]+:)?(?P<word>{_WORDS})"
    r"(?:[ :][^<>\n]{0,40})?>"
    r"|(?<=\[)(?P<close2>/?)THINK]"
    r"|(?<=\u25c1)(?P<close3>/?)think\u25b7"
    r"|(?<=<)(?:\|(?:START|(?P<close4>END))_THINKING\|>"
    r"|\|(?:begin|(?P<close5>end))_of_thought\|>"
    r"|\|channel>thought\b|(?P<close6>channel\|>)"
    r"|(?:\|start\|>assistant<)?\|channel\|>analysis\s*<\|message\|>"
    r"|(?P<close7>(?:\|end\|><)?(?:\|start\|>assistant<)?\|channel\|>final\s*<\|message\|>)"
    r"|(?P<close8>\|(?:end|return)\|>)))",
    re.IGNORECASE,
)
# A text without one of these, in lower case, has no thought: this is much quicker than the pattern.
_HINTS = (
    *("think>", "thinking>", "<think", "/think", "think]", "think\u25b7"),
    *("thinking|>", "of_thought|>", "|channel"),
)
_HINTS_ALOUD = tuple(f"{word}>" for word in _WORDS.split("|")[2:])
# A <thought> beside these tags is part of the prompt's convention and said aloud, as ReAct's
# "Thought:" is.
_CONVENTION = ("<execute>", "<solution>")
_ALOUD = frozenset(_WORDS.split("|")) - {"think", "thinking"}
# Tokens that end a turn or a text, and may be left at its end.
_END_TOKEN = re.compile(
    r"(?:</s>|<eos>|<pad>|<end_of_turn>|<\uff5cend\u2581of\u2581sentence\uff5c>"
    r"|<\|(?:im_end|eot_id|eom_id|end|end_of_text|endoftext|return)\|>)\Z"
)
_LONGEST_TOKEN = 40
_FEW_WORDS = 3
_WINDOW = 400  # characters of a line that are looked at


def split_thought(text: str) -> tuple[str, str, bool]:
    r"""Return what a reply thinks, what it says, and whether its last thought was closed.

    A thought opens with its tag at the start of a line, or anywhere if it is closed again. If a
    reply only closes one, all before it is the thought; if it never closes one, all after the tag
    is, and the reply was cut. A tag that is only mentioned opens nothing: in code, between quotes,
    or within a line around at most three words. Beside ``<execute>`` or ``<solution>``, a
    ``<thought>`` belongs to the prompt's convention and counts as said.

    Parameters
    ----------
    text
        A reply, as the model wrote it.

    Returns
    -------
    thought
        All thoughts, a line break between them; ``""`` if there are none.
    said
        The rest; the text itself if there is no thought.
    closed
        Whether the last thought was closed; ``True`` if there are none.

    Examples
    --------
    >>> split_thought("<think>Sweden?\n</think>\nAction: search[Ida Holm]")
    ('Sweden?', 'Action: search[Ida Holm]', True)
    >>> split_thought("<think>Answer: Norway"), split_thought("It closes with `</think>`.")
    (('Answer: Norway', '', False), ('', 'It closes with `</think>`.', True))
    """
    return _split(text, aloud=True)


def _split(text: str, aloud: bool) -> tuple[str, str, bool]:
    thoughts: list[str] = []
    closed = True
    # What is left may open with a tag that stood within a line before.
    while found := _split_once(text, aloud):
        thoughts.append(found[0])
        text = found[1]
        closed = closed and found[2]
    return "\n".join(thought for thought in thoughts if thought), text, closed


def strip_end_tokens(text: str) -> str:
    """Return a text without the tokens that end it, and without white space there.

    Examples
    --------
    >>> strip_end_tokens("It is Oslo.<|im_end|></s> ")
    'It is Oslo.'
    """
    while token := _END_TOKEN.search(text := text.rstrip(), max(0, len(text) - _LONGEST_TOKEN)):
        text = text[: token.start()]
    return text


def as_said(message: Message, aloud: bool = False) -> Message:
    """Return an assistant's message with its thought as ``reasoning_content``, not in ``content``.

    Other messages, and those without a thought, come back as they are. A thought under one of the
    names that servers use (``reasoning``, ``thinking``) is renamed. Of content in parts, each text
    is read on its own.

    Parameters
    ----------
    message
        A chat message.
    aloud
        Move ``<thought>``, ``<reasoning>`` and the like, too. In logs such tags are mostly the form
        that a prompt asked for, as ReAct's "Thought:" is, and belong to what was said.
    """
    if message.get("role") != "assistant":
        return message
    thought, content = _split_content(message.get("content"), aloud)
    kept = [message.get(key) for key in ("reasoning_content", "reasoning", "thinking")]
    before = next((text for text in kept if isinstance(text, str) and text), "")
    if not thought and before in ("", kept[0]):
        return message
    old = ("reasoning", "thinking")
    rest = {k: v for k, v in message.items() if not (k in old and v == before)}
    whole = "\n".join(filter(None, (before, thought)))
    return {**rest, "content": content, "reasoning_content": whole}


def _split_content(content: object, aloud: bool) -> tuple[str, object]:
    if isinstance(content, str):
        return _split(content, aloud)[:2]
    if not isinstance(content, list):
        return "", content
    thoughts = []
    parts = []
    for part in content:
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            thought, said, _ = _split(part["text"], aloud)
            part = part | {"text": said} if thought else part
            thoughts.append(thought)
        parts.append(part)
    return "\n".join(filter(None, thoughts)), parts


def _split_once(text: str, aloud: bool) -> tuple[str, str, bool] | None:
    """Return thought, rest and whether it is closed; ``None`` if there is no thought."""
    lowered = text.lower()
    aloud = aloud and not any(tag in lowered for tag in _CONVENTION)
    if not any(hint in lowered for hint in (_HINTS + _HINTS_ALOUD if aloud else _HINTS)):
        return None
    thoughts: list[str] = []
    said: list[str] = []
    position = 0
    opened = None
    end = len(text.rstrip())
    fences = _Fences(text)
    for tag in _TAG.finditer(text):
        if not aloud and (tag["word"] or "").lower() in _ALOUD or _quoted(text, tag):
            continue
        if opened is not None:
            if _closes(tag, opened):
                if _is_mention(text, opened, tag):
                    opened = None
                    continue
                said.append(text[position : opened.start()])
                thoughts.append(text[opened.end() : tag.start()])
                position = tag.end()
                opened = None
            elif not _is_close(tag) and _starts_line(text, position, tag.start()):
                opened = opened if _starts_line(text, position, opened.start()) else tag
        elif fences.around(tag.start()) or _in_code(text, tag.start()):
            continue
        elif not _is_close(tag):
            opened = tag
        elif thoughts and tag.end() >= end:  # one closing tag too many
            said.append(text[position : tag.start()])
            position = tag.end()
        elif not tag["close8"]:  # it ends any turn of some families
            thoughts += [*said, text[position : tag.start()]]
            said = []
            position = tag.end()
    closed = True
    if opened is not None and _starts_line(text, position, opened.start()):
        said.append(text[position : opened.start()])
        thoughts.append(text[opened.end() :])
        position = len(text)
        closed = False
    if not position:
        return None
    said.append(text[position:])
    return "\n".join(filter(None, map(str.strip, thoughts))), _joined(said), closed


def _is_close(tag: re.Match[str]) -> bool:
    return any(value for name, value in tag.groupdict().items() if name.startswith("close"))


def _closes(tag: re.Match[str], opened: re.Match[str]) -> bool:
    """Whether a tag closes what was opened; <thinking> and <think> are of the same family."""
    words = [(found["word"] or found[0][0]).lower()[:5] for found in (tag, opened)]
    return _is_close(tag) and words[0] == words[1]


def _is_mention(text: str, opened: re.Match[str], tag: re.Match[str]) -> bool:
    held = text[opened.end() : tag.start()]
    within = not _starts_line(text, 0, opened.start()) and "\n" not in held
    return within and len(held.split()) <= _FEW_WORDS


def _starts_line(text: str, position: int, start: int) -> bool:
    line = text[max(position, start - _WINDOW) : start].rpartition("\n")[2]
    return not line.strip()


def _quoted(text: str, tag: re.Match[str]) -> bool:
    before = text[tag.start() - 1 : tag.start()]
    after = text[tag.end() : tag.end() + 1]
    return bool(before) and before in "`'\"“‘" and bool(after) and after in "`'\"”’"


def _in_code(text: str, start: int) -> bool:
    """Whether a place lies between backticks of its line."""
    line = text[max(0, start - _WINDOW) : start].rpartition("\n")[2]
    return line.count("`") % 2 == 1 and "`" in text[start : start + _WINDOW].partition("\n")[0]


class _Fences:
    """Whether places of a text, asked for in order, lie in a fenced block of code."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._inside = False
        self._last = text.rfind("```")

    def around(self, start: int) -> bool:
        if self._text.count("```", self._position, start) % 2:
            self._inside = not self._inside
        self._position = start
        return self._inside and start < self._last


def _joined(parts: list[str]) -> str:
    """Join what stood around thoughts, without gluing words together."""
    return "\n".join(filter(None, map(str.strip, parts)))
