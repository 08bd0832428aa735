"""The servers behind an endpoint: one, or several that share the requests."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from negfail_nb.agents.choosing import Asked, Chooser, Conversation, recognise
from negfail_nb.agents.protocol import ModelError, Sampling
from negfail_nb.agents.refusals import Absent, StillLoading, TooSlow, TryAgain
from negfail_nb.agents.served import Served, ask_served, check_alike, smallest_window
from negfail_nb.agents.transport import Server, addresses
from negfail_nb.settings import EndpointSettings
from negfail_nb.trajectory import Message

LONGEST_WAIT = 60.0  # seconds between two tries ..
LONGEST_ASKED_WAIT = 300.0  # .. and if the server asks for more
FEWEST_FAILURES = 3  # in a row, after which a server counts as down when all are
LOOK = 0.1  # seconds between two looks at whether a server is free, at least

logger = logging.getLogger("negfail_nb")


class Servers:
    """The servers of an endpoint.

    One is asked as if there were no choice. Several are first asked what they serve; then each
    request goes where `Chooser` says, and a server that fails is left out for a while.

    Parameters
    ----------
    settings
        The endpoint's.
    first_wait
        Seconds before a second try; a server that fails rests for twice as long.

    Attributes
    ----------
    window
        The smallest one, if the servers say that theirs differ.
    """

    def __init__(self, settings: EndpointSettings, first_wait: float) -> None:
        urls = addresses(settings)
        self.settings = settings
        self.first_wait = first_wait
        self.all = tuple(Server(settings, url, alone=len(urls) == 1) for url in urls)
        self.window: int | None = None
        self.chooser = Chooser(len(self.all), 2 * first_wait)
        self._met: dict[int, Served] = {}

    @property
    def several(self) -> bool:
        """Whether there is a choice."""
        return len(self.all) > 1

    async def open(self) -> None:
        """Ask several servers what they serve.

        Raises
        ------
        ModelError
            If none can be reached, or they do not serve the same model.
        """
        if not self.several:
            return
        told = [self._meet(place) for place in range(len(self.all))]
        found = await asyncio.gather(*told, return_exceptions=True)
        for place, error in enumerate(found):
            if isinstance(error, TryAgain):
                self._leave_out(Asked(place), error)
            elif isinstance(error, BaseException):
                raise error
        if all(isinstance(error, Absent | TooSlow) for error in found):
            raise self._all_down()

    async def close(self) -> None:
        """Close the connections."""
        for server in self.all:
            await server.close()

    def turn(self, messages: Sequence[Message], sampling: Sampling) -> Turn:
        """Return the tries of one request."""
        return Turn(self, recognise(messages, sampling) if self.several else None)

    async def start(self, conversation: Conversation) -> Asked:
        """Return where a request goes; if all servers rest, after the first rest.

        Raises
        ------
        ModelError
            If all servers have failed so often that none will answer.
        """
        most = max(self.settings.retries + 1, FEWEST_FAILURES)
        while (asked := self.chooser.start(conversation)) is None:
            if all(state.failures >= most for state in self.chooser.states):
                raise self._all_down()
            await asyncio.sleep(max(self.chooser.wait(), LOOK))
        return asked

    async def check(self, asked: Asked) -> None:
        """Ask a server what it serves, if that is not known yet."""
        if asked.place not in self._met:
            await self._meet(asked.place)

    def failed(self, asked: Asked, reason: TryAgain, tries: int) -> bool:
        """Leave a server out if it failed for good; return whether it was or is left out.

        An error is for good after as many retries as are allowed, be it of one request (``tries``)
        or of several in a row: a server that fails quickly would attract all new ones.
        """
        misses = self.chooser.misses(asked)
        gone = isinstance(reason, Absent | TooSlow | StillLoading)
        if gone or asked.trial or max(tries, misses) > self.settings.retries:
            self._leave_out(asked, reason)
        return self.chooser.states[asked.place].failures > 0

    def _leave_out(self, asked: Asked, reason: TryAgain) -> None:
        state = self.chooser.states[asked.place]
        waited = self.chooser.clock() - state.since if state.failures else 0.0
        grows = not isinstance(reason, StillLoading) or waited > self.settings.start_timeout
        wait = min(reason.wait, LONGEST_ASKED_WAIT)
        if self.chooser.fails(asked, str(reason), wait, grows=grows) and state.failures == 1:
            url = self.all[asked.place].url
            logger.warning("%s is left out, and tried again later: %s", url, reason)

    async def _meet(self, place: int) -> None:
        served = await ask_served(self.all[place], self.settings.model)
        self._met[place] = served
        met = [self._met[place] for place in sorted(self._met)]
        check_alike(met, self.settings.model)
        least = smallest_window(met)
        if least and least.window != self.window:
            self.window = least.window
            said = "the servers take up to different numbers of tokens; the %d of %s count for all"
            logger.warning(said, least.window, least.url)

    def _all_down(self) -> ModelError:
        states = zip(self.all, self.chooser.states, strict=True)
        each = "; ".join(f"{server.url}: {state.why}" for server, state in states)
        return ModelError(
            f"none of the {len(self.all)} servers answers ({each}). Are they up, and the addresses "
            "in EndpointSettings.base_url right?"
        )


class Turn:
    """The tries of one request, at one server or at several."""

    def __init__(self, servers: Servers, conversation: Conversation | None) -> None:
        self._servers = servers
        self._conversation = conversation
        self._asked = Asked(0)
        self._tries: Counter[int] = Counter()
        self._reasons: dict[int, str] = {}
        self._left_out = False

    @asynccontextmanager
    async def server(self) -> AsyncIterator[Server]:
        """Yield the server that is asked in this try, and note what becomes of it."""
        servers = self._servers
        if self._conversation is None:
            yield servers.all[0]
            return
        self._asked = asked = await servers.start(self._conversation)
        try:
            await servers.check(asked)
            yield servers.all[asked.place]
            servers.chooser.works(asked)
        except TryAgain as reason:
            self._note(asked, reason)
            raise
        except Exception:  # it answered, if only to refuse
            servers.chooser.works(asked)
            raise
        finally:
            servers.chooser.end(asked)

    async def pause(self, reason: TryAgain) -> None:
        """Wait until the next try.

        Raises
        ------
        RuntimeError
            If there is none, so that this reply cannot be had.
        ModelError
            If there is none, and no server ever answered.
        """
        servers = self._servers
        place = self._asked.place
        self._tries[place] += self._conversation is None
        if self._tries[place] > servers.settings.retries and not self._others():
            raise self._given_up(reason)
        if self._left_out:
            return  # another server is asked, or this one after its rest
        wait = min(servers.first_wait * 2 ** max(self._tries[place] - 1, 0), LONGEST_WAIT)
        wait = max(wait * random.uniform(0.5, 1.0), min(reason.wait, LONGEST_ASKED_WAIT))
        logger.info("%s; trying again in %.1f s", reason, wait)
        await asyncio.sleep(wait)

    def _note(self, asked: Asked, reason: TryAgain) -> None:
        # A server that is not there, or not yet, has not tried this request.
        self._tries[asked.place] += not isinstance(reason, Absent | StillLoading)
        self._reasons[asked.place] = str(reason)
        self._left_out = self._servers.failed(asked, reason, self._tries[asked.place])

    def _others(self) -> bool:
        """Whether a healthy server is left that this request was not tried at often enough."""
        most = self._servers.settings.retries
        states = enumerate(self._servers.chooser.states)
        return self._conversation is not None and any(
            not state.failures and self._tries[place] <= most for place, state in states
        )

    def _given_up(self, reason: TryAgain) -> Exception:
        servers = self._servers.all
        tries = sum(self._tries.values())
        kind = RuntimeError if any(server.answered for server in servers) else ModelError
        if self._conversation is None:
            return kind(f"{servers[0].url}: no reply in {tries} tries; the last: {reason}")
        each = "; ".join(f"{servers[n].url}: {why}" for n, why in self._reasons.items())
        return kind(f"no reply in {tries} tries; the last of each server: {each}")
