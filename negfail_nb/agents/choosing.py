"""Which of several servers is asked next: the one that has the conversation in its cache, else the
least busy. One that fails rests, and is then tried again with one request.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from negfail_nb.agents.protocol import Sampling
from negfail_nb.steps import text
from negfail_nb.trajectory import Message

REST = 1.0  # seconds after a first failure; doubled after each further one, up to ..
LONGEST_REST = 60.0
BEGINNING = 4096  # characters by which two conversations count as begun alike
REMEMBERED = 65_536  # conversations and beginnings whose server is known


@dataclass(frozen=True, slots=True)
class Conversation:
    """By what a conversation is known again, as hashes.

    Attributes
    ----------
    now
        The request itself.
    earlier
        The request before it, whose reply is now a part of the conversation; ``None``: it is the
        first.
    beginning
        Its first `BEGINNING` characters.
    """

    now: int
    earlier: int | None = None
    beginning: int | None = None


def recognise(messages: Sequence[Message], sampling: Sampling) -> Conversation:
    """Return by what a conversation is known; two with other seeds or temperatures are two."""
    said = tuple((m["role"], text(m), str(m.get("tool_calls") or "")) for m in messages)
    drawn = sampling.temperature, sampling.seed
    replies = [n for n, m in enumerate(messages) if m["role"] == "assistant"]
    if replies:
        return Conversation(hash((drawn, said)), earlier=hash((drawn, said[: replies[-1]])))
    beginning = "\n".join(part for _, part, _ in said[:2])[:BEGINNING]
    return Conversation(hash((drawn, said)), beginning=hash(beginning))


@dataclass(slots=True, eq=False)
class Asked:
    """A request under way: the number of its server, and whether it tries that server again."""

    place: int
    trial: bool = False


@dataclass(slots=True)
class State:
    """What is known of a server.

    Attributes
    ----------
    busy, total
        Requests that are under way, and all so far.
    misses
        Requests in a row, of whichever conversations, that it could not answer.
    failures
        How often it was left out in a row; 0: it is healthy.
    since, until
        When it failed first, and until when it rests, by the chooser's clock.
    trial
        The one request that tries it again.
    why
        Why it failed last.
    """

    busy: int = 0
    total: int = 0
    misses: int = 0
    failures: int = 0
    since: float = 0.0
    until: float = 0.0
    trial: Asked | None = None
    why: str = ""


class Chooser:
    """Chooses among servers. It asks nobody, and is called from one event loop only.

    Parameters
    ----------
    count
        How many servers there are.
    rest
        Seconds that a server rests after it failed once.
    clock
        Returns seconds.
    """

    def __init__(
        self, count: int, rest: float = REST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.states = tuple(State() for _ in range(count))
        self.clock = clock
        self._rest = rest
        self._known: OrderedDict[int | None, int] = OrderedDict()

    def start(self, conversation: Conversation) -> Asked | None:
        """Return where a request goes, which counts as under way; ``None`` if all servers rest."""
        free = self.free()
        if not free:
            return None
        place = self._place(conversation, free)
        state = self.states[place]
        asked = Asked(place, trial=state.failures > 0)
        state.busy += 1
        state.total += 1
        if asked.trial:
            state.trial = asked
        self._remember(conversation, place)
        return asked

    def works(self, asked: Asked) -> None:
        """Note that the server answered, so that it is healthy."""
        self.states[asked.place].misses = 0
        self.states[asked.place].failures = 0

    def misses(self, asked: Asked) -> int:
        """Note that the server could not answer; return how often that was so in a row."""
        self.states[asked.place].misses += 1
        return self.states[asked.place].misses

    def fails(self, asked: Asked, why: str, wait: float = 0.0, *, grows: bool = True) -> bool:
        """Let the server rest, ``wait`` seconds at least; return whether it is a new failure.

        A failure of a request that began before the rest changes nothing. ``grows=False``: further
        failures do not count, as the server is only about to start.
        """
        state = self.states[asked.place]
        if state.failures and not asked.trial:
            return False
        now = self.clock()
        state.since = state.since if state.failures else now
        state.failures = state.failures + 1 if grows else max(state.failures, 1)
        rest = min(self._rest * 2 ** min(state.failures - 1, 30), LONGEST_REST)
        state.until = now + max(rest, wait)
        state.why = why
        return True

    def end(self, asked: Asked) -> None:
        """Note that the request is over, in whatever way."""
        state = self.states[asked.place]
        state.busy -= 1
        if state.trial is asked:
            state.trial = None

    def free(self) -> list[int]:
        """Return the servers that may be asked now: healthy, or after their rest and not tried."""
        now = self.clock()
        states = enumerate(self.states)
        return [n for n, s in states if not s.failures or (s.trial is None and now >= s.until)]

    def wait(self) -> float:
        """Return the seconds until the first rest is over; 0 if a server is being tried."""
        now = self.clock()
        return min((max(s.until - now, 0.0) for s in self.states if s.failures), default=0.0)

    def _place(self, conversation: Conversation, free: list[int]) -> int:
        known = self._known.get(conversation.earlier)
        if known in free:
            return known
        least = min(self.states[n].busy for n in free)
        idle = [n for n in free if self.states[n].busy == least]
        begun = self._known.get(conversation.beginning)
        return begun if begun in idle else min(idle, key=lambda n: self.states[n].total)

    def _remember(self, conversation: Conversation, place: int) -> None:
        for key in (conversation.now, conversation.beginning):
            if key is not None:
                self._known[key] = place
                self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
