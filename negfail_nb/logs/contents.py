"""The trajectories of one log file, or of a stretch of it; one bad file never ends an import."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from negfail_nb.logs import importers  # noqa: F401 - registers them
from negfail_nb.logs.jsontext import explain
from negfail_nb.logs.reading import LogFile, OneByOne, shown_path
from negfail_nb.logs.registry import find_importer, named
from negfail_nb.logs.stretches import Stretch
from negfail_nb.trajectory import Problem, Trajectory, UnreadableLog, replace_surrogates

NO_RECORDS = "the file holds no records"

logger = logging.getLogger("negfail_nb")


class Contents:
    """What a file holds, read once, by iterating; what is wrong with it is in its problems.

    Parameters
    ----------
    log
        The file.
    problem
        Why it cannot be read, if that is known.
    """

    def __init__(self, log: LogFile, problem: str = "") -> None:
        self.log = log
        self._problem = problem
        self._reading = log

    def __iter__(self) -> Iterator[Trajectory]:
        odd = shown_path(str(self.log.path)) != str(self.log.path)
        try:
            for item in self._items():
                if isinstance(item, Problem):
                    self._reading.report(item.record, item.reason)
                elif odd:  # pieces of its name may stand in the records
                    yield Trajectory.from_dict(replace_surrogates(item.to_dict()))
                else:
                    yield item
        except UnreadableLog:
            raise
        except Exception as error:  # noqa: BLE001 - one bad file never ends an import
            logger.debug("%s", self.log.name, exc_info=True)
            self.log.report("", explain(error))

    @property
    def guessed(self) -> set[str]:
        """Records that were read and name no question."""
        return self._reading.guessed

    def _items(self) -> Iterator[Trajectory | Problem]:
        if self._problem or not self.log.head.strip():
            self.log.report("", self._problem or "the file is empty")
            return
        if self.log.format:
            chosen = named(self.log.format)
        else:
            chosen, self._reading = find_importer(self.log)
            self._reading.format = chosen.name
        yield from chosen.read(self._reading)


def find_stretches(log: LogFile, size: int) -> list[Stretch]:
    """Return stretches of a file that can be read one by one; none if only all of it can.

    That is so where each line is a record and the importer reads record by record. The log then
    knows its format.
    """
    try:
        stretches = log.stretches(size)
        chosen, reading = find_importer(log) if len(stretches) > 1 else (None, None)
        if chosen is None or reading is not log or log.guessed or log.problems:
            return []
        log.format = chosen.name
        if isinstance(chosen.read(log), OneByOne):
            return stretches
    except Exception:  # noqa: BLE001 - reading it whole will tell what is wrong
        logger.debug("%s cannot be cut", log.name, exc_info=True)
    log.format = ""
    return []
