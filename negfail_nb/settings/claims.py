"""Settings of room 08: which literature, how claims are compared with it, who extracts and who
reviews.
"""

from __future__ import annotations

from dataclasses import dataclass

from negfail_nb.settings.checked import Checked, option

CHECKS = ("tfidf", "dense", "numbers", "direction", "negation", "names")
SEARCHES = ("folder", "arxiv")
PLAYERS = ("rules", "model", "endpoint")
AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteratureSettings(Checked):
    """08: where the sources of claims come from."""

    folder: str = option(
        "",
        "folder of text, PDF, BibTeX and JSON files; empty: the sources that come with it",
        path=True,
    )
    queries: tuple[str, ...] = option(
        (), "what is searched for; empty: all of the folder", items=str
    )
    searches: tuple[str, ...] = option(
        ("folder",), "where queries are asked: folder, arxiv", items=str
    )
    limit: int = option(20, "sources of one query and search, at most", low=1, high=1000)
    timeout: float = option(
        60.0, "seconds that all searches together may take", low=0.1, high=3600.0, counts=False
    )
    same_title: float = option(
        0.92, "similarity of titles from which two sources are one", low=0.0, high=1.0
    )

    def __post_init__(self) -> None:
        """Refuse searches that there are not."""
        Checked.__post_init__(self)
        unknown = sorted(set(self.searches) - set(SEARCHES))
        if unknown:
            raise ValueError(
                f"LiteratureSettings.searches has {', '.join(unknown)}; use {', '.join(SEARCHES)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSettings(Checked):
    """08: how a claim is compared with its sources, and when a draft is revised."""

    file: str = option("", "JSON or TOML file of claims; empty: those of the papers", path=True)
    threshold: float = option(
        0.15, "TF-IDF cosine from which a sentence counts as found", low=0.0, high=1.0
    )
    dense_threshold: float = option(
        0.5, "cosine of sentence vectors from which it counts as found", low=0.0, high=1.0
    )
    checks: tuple[str, ...] = option(
        ("tfidf", "numbers", "direction", "negation", "names"),
        "a claim is backed if it passes all of these",
        items=str,
    )
    encoder: str = option(
        "",
        "sentence encoder for the dense similarity; empty: none; auto: that of room 06, where it is installed",
        path=True,
    )
    extraction: str = option(
        "rules", "who proposes claims from sources: rules, or a model", choices=PLAYERS
    )
    roles: str = option(
        "rules", "who plays sceptic, validator and synthesiser: rules, or a model", choices=PLAYERS
    )
    pass_score: float = option(
        6.5, "mean score of a review below which the draft is revised once", low=0.0, high=10.0
    )
    least_n: int = option(
        50, "questions below which a measured claim counts as small", low=0, high=1_000_000
    )

    def __post_init__(self) -> None:
        """Refuse checks that there are not, and a dense check without an encoder."""
        Checked.__post_init__(self)
        unknown = sorted(set(self.checks) - set(CHECKS))
        if unknown:
            raise ValueError(
                f"ClaimSettings.checks has {', '.join(unknown)}; use {', '.join(CHECKS)}"
            )
        if "dense" in self.checks and not self.encoder:
            raise ValueError(
                "ClaimSettings.checks has dense, but encoder is empty; give one, such as minilm"
            )
