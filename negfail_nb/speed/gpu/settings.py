"""06, the card: what is measured, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from negfail_nb.settings import Checked, option

PRECISIONS = ("bf16", "fp8")
_LONGEST = 1_048_576


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSettings(Checked):
    """06: a slice of a model on one card, with random weights."""

    model: str = option(
        "llama-3.1-70b", "whose layers: a known name, or a folder with a config.json"
    )
    layers: int = option(
        4, "layers of the slice; embedding and LM head come once", low=1, high=1000
    )
    whole: str = option(
        "llama-3.1-8b", "measured whole, to check that a slice tells of it; empty: none is"
    )
    precisions: tuple[str, ...] = option(
        PRECISIONS, "of the layers' matrices; bf16, and fp8 where torch has it", items=str
    )
    lengths: tuple[int, ...] = option(
        (4096, 8192, 16384, 32768, 65536, 131072),
        "prompts of prefill and contexts of decode, tokens",
        items=int,
    )
    batches: tuple[int, ...] = option((1, 4, 16, 64), "sequences of decode at a time", items=int)
    repeats: int = option(
        30, "times that each cell is measured, of which the median counts", low=3, high=10_000
    )
    cell_seconds: float = option(
        6.0, "seconds from which a cell is content with 3 of them", low=0.0, high=3600.0
    )
    seconds: float = option(
        540.0, "seconds for all; what does not fit in is left out", low=1.0, high=86_400.0
    )
    memory: float = option(0.9, "share of the free memory that may be used", low=0.05, high=1.0)
    matrix: int = option(
        8192, "rows and columns of the matrices of the card's own rate", low=64, high=65_536
    )
    copy_mib: int = option(
        2048, "MiB of the copy that gives the card's bandwidth", low=1, high=65_536
    )
    device: str = option("auto", "auto, cuda, cpu, or what else torch calls it")
    seed: int = option(0, "of weights and prompts", low=0, high=2**31 - 1)

    @classmethod
    def small(cls, model: str = "pocket-llama") -> CardSettings:
        """Return settings for a very small model on a CPU: some seconds."""
        return cls(
            model=model,
            layers=2,
            whole=model,
            precisions=("bf16",),
            lengths=(256, 512, 1024, 2048),
            batches=(1, 8),
            repeats=10,
            cell_seconds=0.5,
            seconds=60.0,
            matrix=1024,
            copy_mib=64,
            device="cpu",
        )

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
        if not self.precisions or not set(self.precisions) <= set(PRECISIONS):
            self._refuse(
                "precisions", self.precisions, f"use some of {', '.join(map(repr, PRECISIONS))}"
            )
        for name, most in (("lengths", _LONGEST), ("batches", 65_536)):
            values = getattr(self, name)
            if not values or not all(1 <= n <= most for n in values):
                self._refuse(name, values, f"give some whole numbers of 1 to {most:,}")
