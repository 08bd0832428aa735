"""What servers mean when they refuse a request: all known words of all known servers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from negfail_nb.agents.protocol import EpisodeTooLong, ModelError

OPTIONAL = ("seed", "stop", "reasoning_content")  # fields that we can do without

# "The prompt does not fit"; a server is named if the words are not those of many.
_TOO_LONG = (
    r"context[ _-]?(?:length|window|size|limit|overflow)",  # OpenAI, vLLM, SGLang, llama.cpp ..
    r"(?:prompt|input|request|conversation|messages?)\b.{0,40}\b"
    r"(?:is|are|was|were) too (?:long|large)",  # Bedrock ..
    r"prompt too long",  # Ollama
    r"too long for (?:this|the requested|requested) model",  # Bedrock
    r"max_model_len|maximum model length",  # vLLM: "The decoder prompt (length 9) is longer .."
    r"maximum prompt length",  # xAI
    r"maximum (?:allowed )?input length|input length (?:exceeds|should be)",  # SGLang, DashScope
    r"(?:prompt|input) length (?:is|of)?.{0,20}(?:longer|exceed|greater)",
    r"input token count.{0,40}exceed",  # Gemini
    r"input tokens? exceed",  # OpenAI's Responses
    r"prompt token count.{0,40}exceed",  # GitHub Copilot
    r"reduce the length",  # Groq, OpenAI, vLLM
    r"`inputs`.{0,60}must (?:be|have)",  # TGI: "`inputs` tokens + `max_new_tokens` must be <= 1024"
    r"requested token count exceeds|tokens in request more than max",  # SGLang ..
    r"too many (?:input |prompt )?tokens",
    r"prompt contains \d+ tokens.{0,40}too large",  # Mistral
    r"(?:exceeded|exceeds) (?:the )?(?:model )?token limit|token limit exceeded",  # Moonshot
    r"larger than the maximum (?:context|sequence)",
    r"exceeds? (?:the )?(?:model'?s )?max(?:imum)? (?:sequence|seq)",
    r"string too long|string_above_max_length",  # OpenAI, of one message
)
_RATE = (
    # OpenAI, Groq (with 413)
    r"\b(?:tokens|requests|input tokens) per (?:min|minute|hour|day|second)|\b[TR]P[MD]\b",
    r"rate[ _-]?limit|too many requests|throttl(?:ed|ing)",
    r"quota exceeded|exceeded your current quota",
)
_LOADING = (
    r"\bloading\b",  # llama.cpp: "Loading model"; Hugging Face: "Model .. is currently loading"
    r"(?:is|still) (?:being loaded|starting|initiali[sz]ing|warming)|starting up|warming up",
    r"\bnot (?:yet )?(?:ready|loaded)",
)
_NO_SYSTEM = (
    r"system (?:role|messages?|prompts?|instructions?)\b.{0,40}\bnot\b.{0,20}"
    r"(?:support|allow|enabl|accept|permit)",
    r"(?:not|n't) (?:support|allow|accept)\w*.{0,30}\bsystem\b",  # OpenAI, of o1
    r"developer instruction is not enabled",  # Gemini's interface, of Gemma
    r"roles must alternate|only user(?:,| and) assistant.{0,20}roles",  # Gemma, Mistral
)
_NO_TOOLS = (
    r"\btools?\b.{0,60}\b(?:unsupported|requires?|not (?:supported|enabled|available|allowed))",
    r"(?:not|n't) support.{0,40}\b(?:tools?|functions?)\b",
    r"function.calling.{0,30}(?:\bnot\b|n't|unsupported)",
)
# Groq, of what the model wrote
_BAD_CALL = (r"(?:failed|attempted) to call|call validation failed|tool_use_failed",)
_WRONG_KEY = (
    r"(?:invalid|incorrect|missing|wrong|no) (?:\w+ )?api[ _-]?key",
    r"api[ _-]?key.{0,20}(?:\bnot\b|n't|invalid|missing|expired)",  # Gemini, with status 400
)
_NO_MODEL = (
    r"pinned to|\b(?:invalid|unknown|no such|valid) model\b",
    r"\bmodel\b.{0,200}\bnot\b.{0,9}\b(?:exist|found|available)",
)
_OTHER_START = (  # llama.cpp
    r"\brequires? (?:the )?(?:flag )?--[a-z]|\bstart(?:ed)? (?:it |the server )?with `?--[a-z]",
)
_WITHHELD = (
    r"\bflagged\b|moderation|content.?(?:policy|filter|management)|responsible.?ai|safety",
)
_ALLOWANCE = (
    r"max(?:_completion|_new|_output)?_tokens\W{0,3}(?:is |are )?"
    r"(?:too large.{0,80}at most|must be|should be)",
    r"range of max_tokens",  # DashScope
)
_LONG_CODES = ("context_length_exceeded", "exceed_context_size_error", "string_above_max_length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What a server says when it refuses.

    Attributes
    ----------
    status
        HTTP status; of an error that came with status 200, the one that it names, or 500.
    said
        The server's words, short and without the key.
    code, param
        What the server calls the error, and the field that it minds, if it says so.
    wait
        Seconds after which it wants to be asked again.
    page
        Whether it is a web page.
    """

    status: int
    said: str
    code: str = ""
    param: str = ""
    wait: float = 0.0
    page: bool = False


class TryAgain(Exception):
    """A try failed, another may not. ``wait`` is how many seconds the server asks for."""

    def __init__(self, text: str, wait: float = 0.0) -> None:
        super().__init__(text)
        self.wait = wait


class StillLoading(TryAgain):
    """The server has not loaded its model yet."""


class Absent(TryAgain):
    """The server cannot be reached."""


class TooSlow(TryAgain):
    """The server does not answer in time."""


class FieldRefused(Exception):
    """The server refuses a ``field`` of the request that need not be sent, or not by this name."""

    def __init__(self, field: str, said: str) -> None:
        super().__init__(said)
        self.field = field


def explain_refusal(
    refusal: Refusal, body: Mapping[str, Any], url: str, key: tuple[str, bool]
) -> Exception:
    """Return what a refusal stands for, as the exception to raise.

    Parameters
    ----------
    refusal
        What the server said.
    body
        The request.
    url
        Of the server, as errors may show it.
    key
        The environment variable of the key, and whether it is set.

    Returns
    -------
    Exception
        `TryAgain`, `StillLoading`, `FieldRefused`, `EpisodeTooLong`, `ModelError` if no request
        could succeed, or `RuntimeError` if only this one cannot.
    """
    text = f"{url} answered {refusal.status}: {refusal.said.rstrip('.')}"
    found = _of_everything(refusal, body, text, key) or _of_this_request(refusal, body, text, url)
    if found:
        return found
    if refusal.status >= 500 or refusal.status in (408, 409, 425, 429):
        return TryAgain(text, refusal.wait)
    return RuntimeError(text)


def _of_everything(
    refusal: Refusal, body: Mapping[str, Any], text: str, key: tuple[str, bool]
) -> Exception | None:
    """Return the error if it does not depend on the conversation."""
    status = refusal.status
    said = refusal.said
    code = refusal.code
    if status == 402 or code == "insufficient_quota":
        return ModelError(f"{text}. The account has no credit left; no try can succeed.")
    if status == 429 or _has(_RATE, said) or code == "rate_limit_exceeded":
        return TryAgain(text, refusal.wait)
    if status >= 500 and _has(_LOADING, said):
        return StillLoading(text, refusal.wait)
    if "tools" in body and _has(_NO_TOOLS, said) and not _of_a_call(refusal, body):
        return ModelError(
            f"{text}. The server takes no tools as it runs now; set LiveSettings.style to 'react'."
        )
    if _has(_OTHER_START, said):
        return ModelError(f"{text}. No try can succeed before the server is started as it says.")
    if status == 501:
        return ModelError(f"{text}. The server cannot do what is asked; no try can succeed.")
    if _has(_ALLOWANCE, said) and "inputs" not in said:
        return ModelError(
            f"{text}. Lower LiveSettings.max_tokens, or ReadingSettings.answer_tokens."
        )
    if code == "model_not_found" or refusal.param == "model":
        return _no_model(text, body)
    denied = status == 401 or (status == 403 and not _has(_WITHHELD, said))
    if denied or (status == 400 and _has(_WRONG_KEY, said)):
        state = "holds a key that the server does not take" if key[1] else "is not set"
        return ModelError(f"{text}. The environment variable {key[0]} {state}.")
    return None


def _of_this_request(
    refusal: Refusal, body: Mapping[str, Any], text: str, url: str
) -> Exception | None:
    """Return the error if it depends on what was sent."""
    status = refusal.status
    said = refusal.said
    if _has(_NO_SYSTEM, said) and any(m["role"] == "system" for m in body["messages"]):
        return FieldRefused("system", said)
    if status == 413 or refusal.code in _LONG_CODES or _has(_TOO_LONG, said):
        return EpisodeTooLong(f"the conversation does not fit the model's window: {said}")
    if refusal.page and status < 500:
        return ModelError(
            f"{url} answered {status} with a web page ({said}). EndpointSettings.base_url must be "
            "the address of the API, mostly ending in /v1."
        )
    if status in (404, 405):
        return _no_model(text, body)
    if status >= 500:
        return None
    found = _field_refused(refusal, body, url)
    return _no_model(text, body) if found is None and _has(_NO_MODEL, said) else found


def _field_refused(refusal: Refusal, body: Mapping[str, Any], url: str) -> Exception | None:
    said = refusal.said
    if "max_completion_tokens" in said and "max_tokens" in body:
        return FieldRefused("max_tokens", said)
    of_messages = [f for f in OPTIONAL if any(f in m for m in body["messages"])]
    named = [f for f in (*body, *of_messages) if f == refusal.param or _names(said, f)]
    optional = [f for f in OPTIONAL if f in named]
    if optional:
        return FieldRefused(optional[0], said)
    if "temperature" in named:
        return ModelError(f"{url} refuses the temperature: {said}. Set LiveSettings.temperatures.")
    # Before any tool was called, the server does not mind this conversation.
    if "tools" in body and "tool" in said.lower() and not _of_a_call(refusal, body):
        return ModelError(f"{url} takes no tools: {said}. Set LiveSettings.style to 'react'.")
    return None


def _of_a_call(refusal: Refusal, body: Mapping[str, Any]) -> bool:
    """Whether the server may mind a call of this conversation, and not that there are tools."""
    called = any(message["role"] == "tool" for message in body["messages"])
    return called or refusal.code == "tool_use_failed" or _has(_BAD_CALL, refusal.said)


def _no_model(text: str, body: Mapping[str, Any]) -> ModelError:
    return ModelError(
        f"{text}. Does the server know the model {body.get('model')!r} (EndpointSettings.model), "
        "and does EndpointSettings.base_url end as the server's documentation says, mostly in /v1?"
    )


def _has(patterns: tuple[str, ...], said: str) -> bool:
    return any(re.search(pattern, said, re.IGNORECASE) for pattern in patterns)


def _names(said: str, field: str) -> bool:
    """Whether a server's message speaks of a field of the request, not just uses the word."""
    after = r"(?:arg|argument|param|parameter|field|propert(?:y|ie)|input|key)s?\b[^.]*?"
    quoted = rf"['\"`](?:[\w.\[\]]*\.)?{field}['\"`]"  # Groq names 'messages.1.reasoning_content'
    return re.search(rf"{quoted}|{after}\b{field}\b", said, re.IGNORECASE) is not None
