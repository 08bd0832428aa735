"""``check_claims``: every claim with what the sources say of it and what was measured."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any

from negfail_nb.claims.evidence import finished_runs, judge, used_files
from negfail_nb.claims.extraction import find_quotation
from negfail_nb.claims.literature import Literature, read_folder
from negfail_nb.claims.records import (
    Claim,
    Source,
    Verdict,
    paper_claims,
    paper_sources,
    read_claims,
)
from negfail_nb.claims.verification import Match, open_encoder, verify
from negfail_nb.environment import package_version
from negfail_nb.runs import file_hash, fingerprint, plain
from negfail_nb.settings import ClaimSettings
from negfail_nb.trajectory import Problem

if TYPE_CHECKING:
    import pandas as pd

TIERS = {
    "A": "a measurement of ours, of the same kind, supports it, and its source backs it",
    "B": "one of both: supported by a measurement, or backed by the source and not measured here",
    "C": "found in the source with a check that failed, or measured without a decision",
    "D": "neither found nor measured",
    "X": "contradicted by a measurement of ours",
}


@dataclass(frozen=True, slots=True)
class Checked:
    """Claims with their verdicts, and what they were judged from.

    Attributes
    ----------
    claims, verdicts
        In one order.
    sources
        That were compared.
    problems
        What could not be read.
    provenance
        Hashes of claims, sources and tables, settings and versions.
    """

    claims: tuple[Claim, ...]
    verdicts: tuple[Verdict, ...]
    sources: tuple[Source, ...]
    problems: tuple[Problem, ...]
    provenance: Mapping[str, Any]

    @property
    def table(self) -> pd.DataFrame:
        """One row a claim: what it says, its verdicts, the interval, its tier and the evidence."""
        import pandas as pd

        names = (
            "measured",
            "value",
            "low",
            "high",
            "n",
            "written",
            "tfidf",
            "tier",
            "reason",
            "sentence",
        )
        rows = [
            {"claim": c.id, "group": c.group, "text": c.text, "source": c.source, "place": c.place}
            | {name: getattr(v, name) for name in names}
            for c, v in zip(self.claims, self.verdicts, strict=True)
        ]
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        return self.table.drop(columns=["reason", "sentence"]).to_html(
            index=False, escape=True, na_rep=""
        )


def check_claims(
    claims: Iterable[Claim] | str | Path | None = None,
    sources: Iterable[Source] | Literature | str | Path | None = None,
    runs: Any = None,
    settings: ClaimSettings = ClaimSettings(),
    encoder: Any = None,
) -> Checked:
    """Check claims against sources and against what was measured.

    Parameters
    ----------
    claims
        Claims, or a JSON or TOML file of them; ``None``: those of the papers, which come with the
        package.
    sources
        Sources, or a folder of them; ``None``: those that come with the package.
    runs
        A walk (with ``figures`` and ``home``), or a folder of figures' tables; ``None``: nothing is
        measured. Of a walk it is also looked whether the runs behind a figure are still there.
    settings
        Threshold and checks.
    encoder
        For the dense similarity; ``None``: the one named in the settings.

    Returns
    -------
    Checked
        The claims with verdicts. What is missing makes a claim "not measured" or "no source", never
        an error.

    Raises
    ------
    ValueError, FileNotFoundError
        For a file of claims or a folder of sources that cannot be read.
    """
    listed = _claims(claims)
    texts, problems = _sources(sources)
    figures, there = _folders(runs)
    encoder = encoder or open_encoder(settings.encoder)
    matches = _matches(listed, texts, settings, encoder)
    verdicts = [
        _verdict(claim, match, texts, figures, there, settings)
        for claim, match in zip(listed, matches, strict=True)
    ]
    return Checked(
        tuple(listed),
        tuple(verdicts),
        texts,
        problems,
        _provenance(listed, texts, figures, settings, problems)
        | {"encoder": getattr(encoder, "fingerprint", "")},
    )


def _claims(claims: Iterable[Claim] | str | Path | None) -> list[Claim]:
    if isinstance(claims, str | Path):
        return read_claims(claims)
    return paper_claims() if claims is None else list(claims)


def _sources(
    sources: Iterable[Source] | Literature | str | Path | None,
) -> tuple[tuple[Source, ...], tuple[Problem, ...]]:
    if isinstance(sources, str | Path):
        sources = read_folder(sources)
    if isinstance(sources, Literature):
        return sources.sources, sources.problems
    return tuple(paper_sources() if sources is None else sources), ()


def _folders(runs: Any) -> tuple[Path | None, set[str] | None]:
    if runs is None:
        return None, None
    if hasattr(runs, "figures"):
        return Path(runs.figures), finished_runs(Path(runs.home) / "runs")
    return Path(runs), None


def _matches(
    claims: Sequence[Claim], sources: Sequence[Source], settings: ClaimSettings, encoder: Any
) -> list[Match | None]:
    """A claim is compared with the source that it names; one that names none with all of them."""
    known = {source.id for source in sources}
    found: list[Match | None] = [None] * len(claims)
    for name in sorted({claim.source for claim in claims}):
        if name and name not in known:
            continue
        places = [place for place, claim in enumerate(claims) if claim.source == name]
        pool = [source for source in sources if name in ("", source.id)]
        made = verify([claims[place].text for place in places], pool, settings, encoder)
        for place, match in zip(places, made, strict=True):
            found[place] = match
    return found


def _verdict(
    claim: Claim,
    match: Match | None,
    sources: Sequence[Source],
    figures: Path | None,
    there: Collection[str] | None,
    settings: ClaimSettings,
) -> Verdict:
    verdict = _measured(claim, figures, there)
    if match is not None:
        own = [source for source in sources if claim.source in ("", source.id)]
        quoted = bool(find_quotation(claim.quotation, own)) if claim.quotation else True
        verdict = replace(
            verdict,
            written=_written(match, quoted, settings),
            tfidf=round(match.tfidf, 4),
            dense=None if match.dense is None else round(match.dense, 4),
            sentence=match.sentence.text if match.sentence else "",
            sentence_source=match.sentence.source if match.sentence else "",
            checks={**match.checks, "quotation": quoted},
        )
    return replace(verdict, tier=_tier(verdict))


def _measured(claim: Claim, figures: Path | None, there: Collection[str] | None) -> Verdict:
    if claim.measure is None:
        return Verdict(
            claim=claim.id, reason=claim.scope or "no figure of this project measures it"
        )
    if figures is None:
        return Verdict(claim=claim.id, reason="no runs were given")
    found = judge(claim.measure, figures, there)
    reason = f"{found.reason} ({claim.scope})" if claim.scope else found.reason
    return Verdict(
        claim=claim.id,
        measured=found.measured,
        value=found.value,
        low=found.low,
        high=found.high,
        n=found.n,
        reason=reason,
    )


def _written(match: Match, quoted: bool, settings: ClaimSettings) -> str:
    if match.sentence is None or not match.checks["tfidf"]:
        return "not found"
    return "backed" if quoted and match.passed(settings.checks) else "doubtful"


def _tier(verdict: Verdict) -> str:
    if verdict.measured == "contradicted":
        return "X"
    good = (verdict.measured == "supported") + (verdict.written == "backed")
    if good:
        return "A" if good == 2 else "B"
    return "C" if verdict.written == "doubtful" or verdict.measured == "undecided" else "D"


def _provenance(
    claims: Sequence[Claim],
    sources: Sequence[Source],
    figures: Path | None,
    settings: ClaimSettings,
    problems: Sequence[Problem],
) -> dict[str, Any]:
    measures = [claim.measure for claim in claims if claim.measure]
    tables = used_files(measures, figures) if figures else ()
    return {
        "claims": fingerprint([plain(claim) for claim in claims]),
        "sources": {source.id: fingerprint(plain(source)) for source in sources},
        "tables": {path.name: file_hash(path) for path in tables},
        "settings": plain(settings),
        "versions": {"python": python_version()}
        | {name: package_version(name) for name in ("negfail_nb", "scikit-learn", "numpy")},
        "problems": [str(problem) for problem in problems],
    }
