"""Requests in an engine: all at once, or in the steady state of a loop in which one joins whenever
one leaves. For one setting, or for arrays of many.

**Static.** All prompts are prefilled together, then all decode. What does not fit waits until all
of those before have ended.

**A closed loop.** N clients ask again as soon as they are answered. B of them are in the engine: as
many as fit into memory and as the engine allows; the others wait. A step decodes one token of each
sequence and may carry a prompt, or a chunk of one. While one sequence is served, each other is
replaced once, so its prompt delays this one, too:

    residence = own prompt + (B - 1) other prompts + (output tokens - 1) decode steps
    waiting   = (N - B) / B residences,  as N = throughput x (waiting + residence)  (Little's law)

Of the other prompts those come before the first token that are in front of it: the queue of M/D/1,
of utilisation B x prompt / residence. The rest falls between tokens. A prompt costs what it adds to
a step that decodes. Around the engine the server takes in requests one after another, and sends
tokens one after another; the slowest of the three sets the pace, softly.

**An open loop.** Requests arrive at random at some rate: as many are in the engine as make this its
throughput; the wait for a slot is that of M/D/c (Sakasegawa's formula). Above the highest rate it
has no steady state.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from negfail_nb.speed.efficiencies import Efficiencies
from negfail_nb.speed.steps import Numbers, Served, Work, overlapped, step_seconds

SOFT = 3.0  # how sharply the slowest of several stages sets the pace; infinite: it alone
AHEAD = 0.3  # of what slower stages than the engine add: before the first token, the rest after it
ALONE = 0.4  # of the intake of a request that delays it; all of it keeps the next one waiting
ROUNDS = 4  # of the fixed point of how many sequences decode
HALVINGS = 40  # of the search for the number of sequences that make a rate


class Asked(NamedTuple):
    """One call of a workload, as the engine sees it."""

    tokens: Numbers  # of the prompt
    cached: Numbers  # of them in the prefix cache
    output: Numbers
    pieces: Numbers  # in which the prompt is prefilled
    chunk: Numbers  # its tokens in each piece but the last
    clients: Numbers  # sequences asked for at once
    slots: Numbers  # sequences that the engine holds at once, at most
    stages: Numbers  # of a pipeline: each works on other sequences
    rounds: Numbers  # requests of the run over those at once; infinite: no beginning, no end
    offline: Numbers  # 1: all of the run are queued at once, so the engine empties at its end
    queued: Numbers  # 1: a server takes requests in and streams tokens; 0: the engine alone


class Timed(NamedTuple):
    """Seconds of one call, and requests per second of all."""

    prefill: Numbers  # of the prompt alone, without waiting
    decode: Numbers  # of one step
    ttft: Numbers
    tpot: Numbers
    e2e: Numbers
    rate: Numbers


def prefill_work(asked: Asked, batch: Numbers = 1.0) -> Work:
    """Return the work of ``batch`` prompts."""
    new = asked.tokens - asked.cached
    # Every piece reads the keys and values of what came before it in its prompt.
    before = asked.chunk * asked.pieces * (asked.pieces - 1) / 2
    return Work(
        tokens=batch * new,
        logits=batch,
        attended=batch * (asked.tokens**2 - asked.cached**2),
        read=batch * (asked.pieces * asked.cached + before),
        steps=np.maximum(asked.pieces, np.ceil(batch * new / asked.chunk)),
    )


def decode_work(asked: Asked, batch: Numbers = 1.0) -> Work:
    """Return the work of one more token of ``batch`` sequences, at the mean of their contexts."""
    context = asked.tokens + asked.output / 2
    attended = batch * (2 * context - 1)
    return Work(batch, batch, attended, batch * context, batch, np.ones_like(context))


def static(on: Served, asked: Asked, reached: Efficiencies) -> Timed:
    """Return the times of requests that start together; a mean over them, if some wait."""
    held = np.minimum(asked.clients, asked.slots)
    prefill, decode = _together(on, asked, held, reached)
    served = prefill + (asked.output - 1) * decode
    whole = np.floor(asked.clients / held)
    rest = asked.clients - whole * held
    last = np.where(rest > 0, sum(_together(on, asked, rest, reached, asked.output - 1)), 0.0)
    e2e = whole * served + last
    waiting = np.where(asked.clients > held, (e2e - served) / 2, 0.0)
    return Timed(prefill, decode, prefill + waiting, decode, e2e, asked.clients / e2e)


def _together(
    on: Served, asked: Asked, batch: Numbers, reached: Efficiencies, steps: Numbers = 1.0
) -> tuple[Numbers, Numbers]:
    """Return the seconds of prefill and of some decode steps of ``batch`` sequences."""
    each = np.maximum(batch / asked.stages, 1.0)
    prefill = step_seconds(on, prefill_work(asked, each), reached)
    return prefill, steps * step_seconds(on, decode_work(asked, each), reached)


class _Engine(NamedTuple):
    """The engine alone, as one of its sequences sees it."""

    own: Numbers  # the prompt, in steps that also decode the others
    prompt: Numbers  # what a prompt adds to the steps of others
    decode: Numbers  # of one step
    queue: Numbers  # until the own prompt begins
    residence: Numbers  # from then to the last token, and the queue


def _engine(on: Served, asked: Asked, others: Numbers, reached: Efficiencies) -> _Engine:
    """Return the steady state of one sequence beside ``others``; some share of these decode."""
    prompt = prefill_work(asked)
    further = asked.output - 1
    share: Numbers = np.where(further > 0, 1.0, 0.0)
    for _ in range(ROUNDS):
        beside = others * share
        idle = decode_work(asked, beside)
        own = step_seconds(on, prompt + _times(idle, asked.pieces), reached)
        # With none that decodes, the steps are there for the prompts only.
        without = asked.pieces * step_seconds(on, idle, reached) * np.minimum(beside, 1.0)
        adds = np.maximum(own - without, 0.0)
        decode = step_seconds(on, decode_work(asked, 1 + beside), reached)
        residence = own + further * decode + others * adds
        share = np.where(further > 0, 1 - own / residence, 0.0)
    half = np.minimum(beside, 1.0) * decode / 2  # the rest of the step that is under way
    queue = np.minimum(_queue((1 + others) / residence, adds), others * adds / 2)
    return _Engine(own, adds, decode, queue + half, residence + half)


def _queue(rate: Numbers, seconds: Numbers) -> Numbers:
    """Return the mean wait of M/D/1."""
    busy = np.minimum(rate * seconds, 0.999)
    return busy * seconds / (2 * (1 - busy))


def _times(work: Work, times: Numbers) -> Work:
    return Work(*(part * times for part in work))


def closed(on: Served, asked: Asked, reached: Efficiencies) -> Timed:
    """Return the mean times of a closed loop."""
    clients = np.maximum(asked.clients / asked.stages, 1.0)  # of one group of a pipeline
    held = np.clip(asked.slots / asked.stages, 1.0, clients)
    engine = _engine(on, asked, held - 1, reached)
    waiting = (clients / held - 1) * engine.residence
    intake = asked.queued * reached.request_ms * 1e-3
    sending = asked.queued * reached.stream_us * 1e-6 * asked.output
    free = engine.residence + waiting + ALONE * intake
    paced = [asked.clients * intake, (asked.clients - 1) * sending]
    softly = overlapped(overlapped(free, paced[0], SOFT), paced[1], SOFT)
    # An empty engine meets all clients at once.
    start = (1 - asked.offline) * (held - 1) / 2 * engine.prompt / asked.rounds
    before = engine.queue + waiting + ALONE * intake
    ttft = engine.own + before + AHEAD * (softly - free) + start
    e2e = (softly + start) * _emptying(on, asked, held, engine, reached)
    ttft = np.where(asked.output > 1, ttft, e2e)
    tpot = _per_token(e2e - ttft, asked, engine)
    alone = step_seconds(on, prefill_work(asked), reached)
    return Timed(alone, engine.decode, ttft, tpot, e2e, asked.clients / e2e)


def _emptying(
    on: Served, asked: Asked, held: Numbers, engine: _Engine, reached: Efficiencies
) -> Numbers:
    """Return how much longer a run takes in which the last round does not fill the engine.

    Requests of one length end together as they began, so a run is one of whole rounds, and of one
    more with the rest.
    """
    rounds = np.where(asked.offline > 0, np.minimum(asked.rounds, 1e6), 1.0)
    whole = np.floor(rounds)
    rest = held * (rounds - whole)
    last = _engine(on, asked, np.maximum(rest - 1, 0), reached).residence / engine.residence
    return (whole + np.where(rest >= 1, last, 0.0)) / rounds


def _per_token(seconds: Numbers, asked: Asked, engine: _Engine) -> Numbers:
    further = asked.output - 1
    return np.where(further > 0, seconds / np.maximum(further, 1), engine.decode)


def highest_rate(on: Served, asked: Asked, reached: Efficiencies) -> Numbers:
    """Return the requests per second above which an open loop has no steady state."""
    slots = np.maximum(asked.slots / asked.stages, 1.0)
    engine = asked.stages * slots / _engine(on, asked, slots - 1, reached).residence
    intake = asked.queued * reached.request_ms * 1e-3
    sending = asked.queued * reached.stream_us * 1e-6 * asked.output
    return 1 / np.maximum(1 / engine, np.maximum(intake, sending))


def opened(on: Served, asked: Asked, rate: Numbers, reached: Efficiencies) -> Timed:
    """Return the mean times of an open loop of ``rate`` requests per second, below the highest."""
    each = rate / asked.stages
    slots = np.maximum(asked.slots / asked.stages, 1.0)
    low, high = np.zeros_like(slots), slots
    for _ in range(HALVINGS):
        others = (low + high) / 2  # an arrival meets the mean number
        fast = others / _engine(on, asked, others, reached).residence > each
        low, high = np.where(fast, low, others), np.where(fast, others, high)
    engine = _engine(on, asked, high, reached)
    busy = np.minimum(each * engine.residence / slots, 0.999)
    waiting = engine.residence / slots * busy ** (np.sqrt(2 * (slots + 1)) - 1) / (1 - busy) / 2
    intake = asked.queued * reached.request_ms * 1e-3
    sending = asked.queued * reached.stream_us * 1e-6 * asked.output
    before = waiting + ALONE * intake + _queue(rate, intake) + _queue(rate, sending)
    ttft = engine.own + engine.queue + before
    e2e = engine.residence + before
    tpot = _per_token(e2e - ttft, asked, engine)
    alone = step_seconds(on, prefill_work(asked), reached)
    return Timed(alone, engine.decode, ttft, tpot, e2e, rate)
