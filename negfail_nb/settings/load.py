"""Settings of room 06: under which load a server is measured."""

from __future__ import annotations

from dataclasses import dataclass

from negfail_nb.settings.checked import Checked, option

CACHES = ("cold", "warm")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings(Checked):
    """06: the load that a server is measured under. Each load with each cache is a cell of its own."""

    concurrency: tuple[int, ...] = option(
        (1, 4, 16), "closed loops: requests at once, one cell each", items=int
    )
    rates: tuple[float, ...] = option(
        (), "open loops: Poisson arrivals, requests a second, one cell each", items=float
    )
    caches: tuple[str, ...] = option(
        CACHES, "cold: no prompt was seen before; warm: each prompt was sent once before", items=str
    )
    requests: int = option(64, "measured requests of a cell", low=1, high=1_000_000)
    warmup: int = option(
        2,
        "requests before a cell, not measured, of texts that are not measured",
        low=0,
        high=10_000,
    )
    output_tokens: int = option(64, "tokens of a reply, at most", low=1, high=1_048_576)
    fixed_length: bool = option(True, "replies have exactly so many tokens, where the server can")
    reset_cache: bool = option(
        False, "empty the server's prefix cache before each cell, where it can be"
    )
    temperature: float = option(0.0, "of all replies", low=0.0, high=5.0)
    seed: int = option(0, "seed of the arrivals", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        """Check every field.

        Raises
        ------
        ValueError
            For a value that cannot be right; the text names field and value.
        """
        # Not `super()`: slots make the class anew, and the old one is what `super()` would look
        # for.
        Checked.__post_init__(self)
        if any(n < 1 for n in self.concurrency):
            self._refuse("concurrency", self.concurrency, "each number must be 1 or more")
        if any(not 0 < rate < float("inf") for rate in self.rates):
            self._refuse("rates", self.rates, "each rate must be above 0")
        if not self.concurrency and not self.rates:
            self._refuse("concurrency", self.concurrency, "give at least one load here or in rates")
        if not self.caches or not set(self.caches) <= set(CACHES):
            self._refuse("caches", self.caches, f"use some of {', '.join(map(repr, CACHES))}")
