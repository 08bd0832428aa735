"""Settings of room 08: how claims are compared with sources."""

from __future__ import annotations

from dataclasses import dataclass

from negfail_nb.settings.checked import Checked, option

CHECKS = ("tfidf", "dense", "numbers", "direction", "negation", "names")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSettings(Checked):
    """08: how a claim is compared with its sources, and when a draft is revised."""

    threshold: float = option(0.15, "TF-IDF cosine from which a sentence counts as found", low=0.0, high=1.0)
    dense_threshold: float = option(0.5, "cosine of sentence vectors from which it counts as found", low=0.0, high=1.0)
    checks: tuple[str, ...] = option(
        ("tfidf", "numbers", "direction", "negation", "names"), "a claim is backed if it passes all of these", items=str
    )
    encoder: str = option("", "sentence encoder for the dense check, such as minilm; empty: none")
    same_title: float = option(0.92, "similarity of titles from which two sources are one", low=0.0, high=1.0)
    pass_score: float = option(6.5, "mean score of a review below which the draft is revised once", low=0.0, high=10.0)
    least_n: int = option(50, "questions below which a measured claim counts as small", low=0, high=1_000_000)

    def __post_init__(self) -> None:
        """Refuse checks that there are not, and a dense check without an encoder."""
        Checked.__post_init__(self)
        unknown = sorted(set(self.checks) - set(CHECKS))
        if unknown:
            raise ValueError(f"ClaimSettings.checks has {', '.join(unknown)}; use {', '.join(CHECKS)}")
        if "dense" in self.checks and not self.encoder:
            raise ValueError("ClaimSettings.checks has dense, but encoder is empty; give one, such as minilm")
