"""Runs that a log holds as one text: rendered with a chat template, in ReAct's parts, or with what
tools answered between tags.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from negfail_nb.said import strip_end_tokens
from negfail_nb.trajectory import Message

PART = re.compile(
    r"^[ \t]*(Thought|Action|Observation|Final Answer)[ \t]*(\d*)[ \t]*:", re.IGNORECASE
)
# What chat templates write before a turn: GPT-OSS, ChatML, Llama 3, Gemma, Zephyr and Phi,
# DeepSeek, Mistral and Llama 2; and the "Human: .." of Anthropic's hh-rlhf.
_OPENING = re.compile(
    r"<\|start\|>(assistant)|<\|start\|>([\w.]{1,64})[^<\n]{0,80}(?:<\|channel\|>\w+)?<\|message\|>"
    r"|<\|im_start\|>(\w+)\n?"
    r"|<\|start_header_id\|>(\w+)<\|end_header_id\|>\n*"
    r"|<start_of_turn>(\w+)\n"
    r"|<\|(system|user|assistant|observation|tool)\|>\n?"
    r"|<\uff5c(User|Assistant)\uff5c>"
    r"|\[(/?INST)\] ?"
)
_SPOKEN = re.compile(r"(?:\A|\n\n)(Human|Assistant): ?")
# The same without its special tokens, as trainers decode ChatML: a role on a line of its own.
_BARE = re.compile(r"^(system|user|assistant|tool)\n", re.MULTILINE)
_FIRST = re.compile(
    r"\s*(?:<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>"
    r"|<\uff5cbegin\u2581of\u2581sentence\uff5c>)*\s*"
)
_LLAMA_2 = re.compile(r"\s*<<SYS>>\s*(.*?)\s*<</SYS>>\s*", re.DOTALL)
_SENDERS = {"inst": "user", "/inst": "assistant"}
# A call between tags, and the answer that the environment put behind it: Search-R1, ReSearch,
# Search-o1, Hermes.
_ANSWERED = re.compile(
    r"(?P<call></(?:search|query|python|code|execute|tool_call|function_call)>"
    r"|<\|end_search_query\|>)\s*"
    r"(?P<told><(?P<tag>information|results?|search_results?|documents?|observation|output"
    r"|interpreter|tool_response|tool_result)>(?:(?!<(?P=tag)>).)*?</(?P=tag)>"
    r"|<\|begin_search_result\|>(?:(?!<\|begin_search_result).)*?<\|end_search_result\|>)\s*",
    re.DOTALL,
)


def rendered_turns(text: str) -> list[Message]:
    r"""Return the turns of a chat that was rendered as one text; none if it was not.

    Parameters
    ----------
    text
        It begins with a turn's mark, or with a token that begins a text. A last turn in which
        nothing is said yet is left out.

    Examples
    --------
    >>> rendered_turns("<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n")
    [{'role': 'user', 'content': 'Who?'}]
    """
    begun = _FIRST.match(text)
    token, text = begun[0].strip(), text[begun.end() :]
    form = next((form for form in (_OPENING, _SPOKEN, _BARE) if form.match(text)), None)
    if token and form is None and _OPENING.search(text):
        form = _OPENING  # what stands before the first turn is the system prompt
    if form is None:
        return []
    marks = list(form.finditer(text))
    if form is not _OPENING and all(mark[1].lower() != "assistant" for mark in marks):
        return []  # words, with which a text may begin
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    parts = [("system", text[: marks[0].start()])]
    for mark, end in zip(marks, ends, strict=True):
        role = next(filter(None, mark.groups())).lower()
        said = text[mark.end() : end]
        if system := _LLAMA_2.match(said) if role == "inst" else None:
            parts.append(("system", system[1]))
            said = said[system.end() :]
        if role == parts[-1][0] == "assistant" and mark[1]:  # a thought, and what is said after it
            said = f"{parts.pop()[1]}{mark[0]}{said}"
        role = "tool" if role.startswith("functions.") else _SENDERS.get(role, role)
        parts.append((role, said))
    turns = [{"role": role, "content": strip_end_tokens(s).strip()} for role, s in parts]
    return [turn for turn in turns if turn["content"]]


def said_turns(text: str) -> list[Message]:
    r"""Return the turns of a run that an agent's text holds: its own, and what tools answered.

    They are told apart by ReAct's observations, or by the tags of an answer right behind those of
    a call. Without either it is one turn, word for word.

    Examples
    --------
    >>> [t["role"] for t in said_turns("<search>a</search><result>b</result><answer>c</answer>")]
    ['assistant', 'user', 'assistant']
    """
    before, turns = split_turns(text.split("\n"))
    if len(turns) > 1:
        first = "\n".join(filter(None, (before, turns[0]["content"])))
        return [{**turns[0], "content": first}, *turns[1:]]
    found = []
    start = 0
    for answered in _ANSWERED.finditer(text):
        found.append({"role": "assistant", "content": text[start : answered.end("call")].strip()})
        found.append({"role": "user", "content": answered["told"]})
        start = answered.end()
    rest = text[start:] if not found else text[start:].strip()
    return [*found, {"role": "assistant", "content": rest}] if rest or not found else found


def split_turns(lines: Iterable[str]) -> tuple[str, list[Message]]:
    """Split ReAct text into what stands before the first part, and messages.

    Thought and action are an assistant turn, an observation is a user turn, each word for word.
    If the parts are numbered, a line with another number than the next is quoted text, not a part.
    """
    before: list[str] = []
    turns: list[tuple[str, list[str]]] = []
    count = _Count()
    for line in lines:
        part = PART.match(line)
        role = "user" if part and part[1].lower() == "observation" else "assistant"
        if part and (turns or role == "assistant") and count.takes(part[1].lower(), part[2]):
            if not turns or turns[-1][0] != role:
                turns.append((role, []))
        (turns[-1][1] if turns else before).append(line)
    made = [{"role": role, "content": "\n".join(text).strip("\n")} for role, text in turns]
    return "\n".join(before).strip(), made


class _Count:
    """Follows the numbers of thoughts, actions and observations."""

    def __init__(self) -> None:
        self.last: dict[str, int | None] = {}

    def takes(self, kind: str, digits: str) -> bool:
        """Whether a part of this kind can follow; if so, it is counted."""
        number = int(digits[:9]) if digits else None
        if kind == "final answer":  # has no number, so it is no part if the others have one
            return all(last is None for last in self.last.values())
        if kind in self.last:
            last = self.last[kind]
            if (number is None) != (last is None):
                return False
            top = max((n for n in self.last.values() if n is not None), default=0)
            if number is not None and not (last < number and top <= number <= top + 1):
                return False
        self.last[kind] = number
        return True
