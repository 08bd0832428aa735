"""Traces: OpenTelemetry's GenAI spans, OpenInference's (Phoenix), Langfuse's observations, runs of
LangSmith, calls of Weave, and MLflow's traces.

A call of a model holds what was said before it, so the longest call of a trace is its run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

from negfail_nb.logs.fields import beside, labelled
from negfail_nb.logs.messages import as_messages
from negfail_nb.logs.reading import LogFile
from negfail_nb.logs.registry import importer
from negfail_nb.toolcalls import parsed
from negfail_nb.trajectory import Problem, Trajectory

# Attributes that hold messages, sent and received: lists (OpenTelemetry), or one attribute a field
# (OpenInference and the older forms of others).
_LISTS = (
    ("gen_ai.input.messages", "gen_ai.output.messages"),
    ("llm.input_messages", "llm.output_messages"),
)
_FIELDS = (
    ("llm.input_messages.", "llm.output_messages."),
    ("gen_ai.prompt.", "gen_ai.completion."),
)
_MODELS = (
    *("gen_ai.response.model", "gen_ai.request.model", "llm.model_name"),
    *("model", "providedModelName"),
)
_OBSERVED = ("GENERATION", "SPAN", "AGENT", "TOOL", "EVENT", "CHAIN")
_MLFLOW = ("mlflow.spanInputs", "mlflow.spanOutputs")
_TRACES = ("traceId", "trace_id", "context.trace_id")
_STARTS = ("startTimeUnixNano", "start_time", "startTime", "start_time_unix_nano")
_MOST = 10_000  # turns and calls in one span


class Span(NamedTuple):
    """A call of a model: its trace, when it began, its messages, and what else its trace says."""

    trace: str
    where: str
    start: str
    messages: list[Any]
    beside: dict[str, Any]

    @property
    def rank(self) -> tuple[int, str]:
        """The longest call of a trace is read; of equal ones the last."""
        return len(self.messages), self.start


@importer(
    "spans",
    looks_like=lambda log: any(_is_trace(sample) for sample in log.samples) and not _is_opened(log),
    fields="a trace's id; `gen_ai.input.messages`, `llm.input_messages.0.message.role` or `input`",
)
def spans(log: LogFile) -> Iterator[Trajectory | Problem]:
    """Spans of OpenTelemetry (OTLP's JSON, or one span a record), Phoenix, Langfuse, LangSmith,
    Weave and MLflow; a trace is a run.

    Of the calls of models in a trace the one with most messages is read. Scores are looked for on
    all its spans.
    """
    calls: dict[str, Span] = {}
    scores: dict[str, dict[str, Any]] = {}
    seen: dict[str, str] = {}
    for where, record in log.records():
        for span, told in _spans(record):
            trace = _trace(span)
            seen.setdefault(trace, where)
            scores.setdefault(trace, {}).update(_scores(span), **told)
            call = _call(span, trace, where)
            if call and (trace not in calls or call.rank > calls[trace].rank):
                calls[trace] = call
    for trace, where in seen.items():
        if trace in calls:
            yield from log.attempt(where, lambda t=trace: _run(log, calls[t], scores[t]))
        else:
            name = trace or "(without an id)"
            log.report(where, f"the trace {name} holds no call of a model with its messages")


def _run(log: LogFile, call: Span, scores: dict[str, Any]) -> Trajectory:
    given = {**call.beside, "scores": scores} if scores else call.beside
    name = f"spans:{call.trace}" if call.trace else ""
    return labelled(log, given, call.where, as_messages(call.messages), id=name)


def _is_opened(log: LogFile) -> bool:
    """Whether these are the observations of one trace, whose scores stand beside them."""
    inside = log.is_object and '"observations"' in log.text
    return inside and not any("observations" in sample for sample in log.samples)


def _is_trace(sample: Mapping[str, Any]) -> bool:
    if "resourceSpans" in sample or "scopeSpans" in sample:
        return True
    if isinstance(sample.get("observations"), list):
        return True
    attributes = _attributes(sample)
    known = any(name in attributes for pair in _LISTS for name in pair)
    known = known or any(key.startswith(pair) for key in attributes for pair in _FIELDS)
    observed = "input" in sample and sample.get("type") in _OBSERVED
    observed = observed or ("inputs" in sample and ("run_type" in sample or "op_name" in sample))
    if isinstance(sample.get("data"), dict) and isinstance(sample["data"].get("spans"), list):
        return any(_MLFLOW[0] in _attributes(span) for span in _dicts(sample["data"]["spans"]))
    return bool(_trace(sample)) and (known or observed or "openinference.span.kind" in attributes)


def _spans(record: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the spans of a record, and the scores that stand beside them."""
    if not isinstance(record, dict):
        return
    if isinstance(record.get("observations"), list):
        inner = record.get("trace") if isinstance(record.get("trace"), dict) else record
        scores = [*_dicts(record.get("scores")), *_dicts(inner.get("scores"))]
        told = {s["name"]: s.get("value") for s in scores if isinstance(s.get("name"), str)}
        trace = inner.get("id") or inner.get("traceId") or ""
        for span in _dicts(record["observations"]):
            yield {"traceId": trace, **span}, told
        return
    record = record["data"] if isinstance(record.get("data"), dict) else record
    parts = (record.get(key) for key in ("resourceSpans", "scopeSpans", "spans"))
    nested = next((part for part in parts if isinstance(part, list)), None)
    if nested is None:
        yield record, {}
    for part in nested or ():
        yield from _spans(part)


def _call(span: Mapping[str, Any], trace: str, where: str) -> Span | None:
    """Return the call of a model that a span is, if it is one."""
    attributes = _attributes(span)
    sent, received = _messages(attributes)
    named = span.get("type", "GENERATION") == "GENERATION" and span.get("run_type", "llm") == "llm"
    if not received and named:
        told = attributes.get(_MLFLOW[0]), attributes.get(_MLFLOW[1])
        sent = _turns(span.get("input", span.get("inputs", told[0])), "user")
        received = _turns(span.get("output", span.get("outputs", told[1])), "assistant")
    if not received or not sent:
        return None
    system = _loaded(attributes.get("gen_ai.system_instructions"))
    told = [{"role": "system", "parts": system}] if isinstance(system, list) and system else []
    start = next((str(span[key]) for key in _STARTS if span.get(key)), "")
    model = next((v for k in _MODELS if isinstance(v := attributes.get(k, span.get(k)), str)), "")
    tools = _loaded(attributes.get("gen_ai.tool.definitions"))
    more = {"model": model, "tools": tools if isinstance(tools, list) else None}
    return Span(trace, where, start, [*told, *sent, *received], {**_told(span, attributes), **more})


def _messages(attributes: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    lists = ([_dicts(_loaded(attributes.get(name))) for name in pair] for pair in _LISTS)
    single = ([_nested(attributes, prefix) for prefix in pair] for pair in _FIELDS)
    found = next((pair for pair in chain(lists, single) if any(pair)), ([], []))
    return [_flat(m) for m in found[0]], [_flat(m) for m in found[1]]


def _flat(message: Mapping[str, Any]) -> dict[str, Any]:
    inner = message["message"] if isinstance(message.get("message"), dict) else message
    turn = _unwrapped(message, "message")
    for key in [key for key in turn if key.startswith("tool_calls.")]:
        turn.pop(key)
    calls = turn.get("tool_calls") or _nested(inner, "message.tool_calls.")
    if calls:
        turn["tool_calls"] = [_flat_call(call) for call in _dicts(calls)]
    contents = turn.pop("contents", None)
    if contents and not turn.get("content"):
        turn["content"] = [_unwrapped(part, "message_content") for part in _dicts(contents)]
    return {key: value for key, value in turn.items() if key != "finish_reason"}


def _unwrapped(item: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return an object without the name that OpenInference puts around or before its fields."""
    inner = item[name] if isinstance(item.get(name), dict) else item
    return {key.removeprefix(f"{name}."): value for key, value in inner.items()}


def _flat_call(call: Mapping[str, Any]) -> dict[str, Any]:
    flat = _unwrapped(call, "tool_call")
    function = flat.get("function") if isinstance(flat.get("function"), dict) else {}
    named = {k.removeprefix("function."): v for k, v in flat.items() if k.startswith("function.")}
    return {"id": flat.get("id"), "function": {**function, **named}} if function or named else flat


def _nested(attributes: Mapping[str, Any], prefix: str) -> list[dict[str, Any]]:
    """Return a list of objects whose fields are one attribute each: prefix, number, ``.``, path."""
    found: dict[int, dict[str, Any]] = {}
    for key, value in attributes.items():
        if not key.startswith(prefix):
            continue
        number, _, path = key.removeprefix(prefix).partition(".")
        if number.isdecimal() and len(number) < 6 and path and len(found) < _MOST:
            found.setdefault(int(number), {})[path] = value
    return [_grown(found[number]) for number in sorted(found)]


def _grown(paths: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of one object, with its lists of ``tool_calls`` and ``contents``."""
    whole = dict(paths)
    for name in ("message.tool_calls", "message.contents", "tool_calls", "contents"):
        if name not in whole and (items := _nested(paths, f"{name}.")):
            whole = {k: v for k, v in whole.items() if not k.startswith(f"{name}.")}
            whole[name] = items
    return whole


def _turns(value: Any, role: str) -> list[Any]:
    """Return what a call sent or received, as turns; of several batches or replies the first."""
    value = _loaded(value)
    if isinstance(value, dict):
        lists = (value.get(key) for key in ("messages", "choices", "generations", "output"))
        value = next((inner for inner in lists if isinstance(inner, list)), [value])
    while isinstance(value, list) and value and isinstance(value[0], list):
        value = value[0]
    if isinstance(value, str):
        return [{"role": role, "content": value}] if value.strip() else []
    turns = [item.get("message", item) if "role" not in item else item for item in _dicts(value)]
    turns = [turn["kwargs"] if "lc" in turn and "kwargs" in turn else turn for turn in turns]
    return [t for t in turns if isinstance(t, dict) and ("role" in t or "type" in t)]


def _attributes(span: Mapping[str, Any]) -> dict[str, Any]:
    """Return a span's attributes: OTLP's list of typed values, an object, or columns of a table."""
    given = span.get("attributes")
    if isinstance(given, list):
        pairs = (pair for pair in _dicts(given) if isinstance(pair.get("key"), str))
        found = {pair["key"]: _value(pair.get("value")) for pair in pairs}
    elif isinstance(given, dict):
        found = dict(given)
    else:
        columns = ("attributes.", "gen_ai.", "llm.", "openinference.")
        found = {k.removeprefix("attributes."): v for k, v in span.items() if k.startswith(columns)}
    for event in _dicts(span.get("events")):
        found = {**_attributes({"attributes": event.get("attributes")}), **found}
    return found


def _value(value: Any) -> Any:
    """Return a typed value of OTLP as JSON has it."""
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("arrayValue"), dict):
        return [_value(item) for item in value["arrayValue"].get("values") or ()]
    if isinstance(value.get("kvlistValue"), dict):
        pairs = _dicts(value["kvlistValue"].get("values"))
        return {pair.get("key"): _value(pair.get("value")) for pair in pairs}
    return next(iter(value.values()), None)


def _told(span: Mapping[str, Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a span says beside its messages: metadata, and other attributes by last name."""
    metadata = _loaded(attributes.get("metadata", span.get("metadata")))
    others = {k: v for k, v in attributes.items() if not k.startswith(("gen_ai.", "llm."))}
    plain = {key.rpartition(".")[2]: value for key, value in others.items()}
    return beside({**plain, **({"metadata": metadata} if isinstance(metadata, dict) else {})})


def _scores(span: Mapping[str, Any]) -> dict[str, Any]:
    """Return the evaluations of a span: Phoenix's ``eval.NAME.score`` and ``.label``."""
    attributes = {**_attributes(span), **{k: v for k, v in span.items() if k.startswith("eval.")}}
    found: dict[str, Any] = {}
    for key, value in attributes.items():
        match key.split("."):
            case ["eval", name, "score"] if value is not None:
                found[name] = value
            case ["eval", name, "label"] if value is not None:
                found.setdefault(name, value)
    return found


def _trace(span: Mapping[str, Any]) -> str:
    context = span.get("context") if isinstance(span.get("context"), dict) else {}
    found = (part[key] for part in (span, context) for key in _TRACES if part.get(key))
    return str(next(found, ""))


def _loaded(value: Any) -> Any:
    """Return JSON that is written in a string; other strings, and anything else, as they are."""
    written = isinstance(value, str) and value.lstrip().startswith(("[", "{"))
    return parsed(value) if written else value


def _dicts(value: Any) -> list[dict[str, Any]]:
    items = value if isinstance(value, list | tuple) else ()
    return [item for item in items if isinstance(item, dict)]
