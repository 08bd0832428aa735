"""``check_claims``: every claim with what the sources say of it and what was measured."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any

from negfail_nb.claims.evidence import finished_runs, judge
from negfail_nb.claims.extraction import find_quotation
from negfail_nb.claims.judging import Judge, open_judges
from negfail_nb.claims.literature import Literature
from negfail_nb.claims.records import Claim, Source, Verdict
from negfail_nb.claims.verification import Match, open_encoder, verify
from negfail_nb.content import file_hash, fingerprint, plain
from negfail_nb.environment import package_version
from negfail_nb.settings import ClaimSettings
from negfail_nb.trajectory import Problem

if TYPE_CHECKING:
    import pandas as pd

TIERS = {
    "A": "a measurement of ours, of the same kind, supports it, and its source backs it",
    "B": "one of both: supported by a measurement, or backed by its source and no measurement of "
    "ours decides",
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
        What could not be read or found.
    provenance
        Hashes of claims, sources and tables, settings and versions.
    merged
        Sources that were found to be one: ``(kept id, dropped id, why)``.
    """

    claims: tuple[Claim, ...]
    verdicts: tuple[Verdict, ...]
    sources: tuple[Source, ...]
    problems: tuple[Problem, ...]
    provenance: Mapping[str, Any]
    merged: tuple[tuple[str, str, str], ...] = ()

    @property
    def table(self) -> pd.DataFrame:
        """One row per claim: what it says, its verdicts, interval, tier and evidence."""
        import pandas as pd

        names = "measured value low high n written decided tfidf tier reason sentence".split()
        rows = [
            {"claim": c.id, "group": c.group, "text": c.text, "source": c.source, "place": c.place}
            | {name: getattr(v, name) for name in names}
            for c, v in zip(self.claims, self.verdicts, strict=True)
        ]
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        shown = self.table.drop(columns=["reason", "sentence"])
        return shown.to_html(index=False, escape=True, na_rep="")


def check_claims(
    claims: Iterable[Claim],
    sources: Literature | Iterable[Source],
    figures: str | Path | None = None,
    settings: ClaimSettings = ClaimSettings(),
    encoder: Any = None,
    runs: str | Path | None = None,
    judges: Mapping[str, Judge] | None = None,
) -> Checked:
    """Check claims against sources and against what was measured.

    Parameters
    ----------
    claims, sources
        Of `read_claims` or `paper_claims`, and of `open_literature`.
    figures
        Folder of figures with the tables beside them; ``None``: nothing is measured.
    settings
        Threshold and checks.
    encoder
        For the dense similarity; ``None``: the one named in the settings.
    runs
        Folder of runs: a table whose runs, by the JSON beside it, are not there any more is no
        evidence. ``None``: not checked.
    judges
        Of `negfail_nb.claims.open_judges`, which read a claim beside the sentence that fits best.
        ``None``: those that the settings name; a language model has to be given.

    Returns
    -------
    Checked
        The claims with verdicts. What is missing makes a claim "not measured" or "no source", never
        an error.
    """
    listed = list(claims)
    found = sources if isinstance(sources, Literature) else Literature(tuple(sources))
    texts = found.sources
    there = None if runs is None else finished_runs(runs)
    encoder = encoder or open_encoder(settings.encoder)
    judges = open_judges(settings) if judges is None else judges
    matches = _matches(listed, texts, settings, encoder, judges)
    verdicts = []
    for claim, match in zip(listed, matches, strict=True):
        verdict = _measured(claim, figures, there)
        if match is not None:
            verdict = _compared(verdict, claim, match, texts, settings)
        verdicts.append(replace(verdict, tier=_tier(verdict)))
    measures = {claim.measure.csv for claim in listed if claim.measure}
    tables = [Path(figures) / name for name in sorted(measures)] if figures else []
    provenance = {
        "claims": fingerprint([plain(claim) for claim in listed]),
        "sources": {source.id: fingerprint(plain(source)) for source in texts},
        "tables": {path.name: file_hash(path) for path in tables if path.is_file()},
        "settings": plain(settings),
        "versions": {"python": python_version()}
        | {name: package_version(name) for name in ("negfail_nb", "scikit-learn", "numpy")},
        "problems": [str(problem) for problem in found.problems],
        "encoder": getattr(encoder, "fingerprint", ""),
        "judges": {name: getattr(judge, "fingerprint", "") for name, judge in judges.items()},
    }
    judged = tuple(listed), tuple(verdicts), texts
    return Checked(*judged, found.problems, provenance, found.merged)


def _matches(
    claims: Sequence[Claim],
    sources: Sequence[Source],
    settings: ClaimSettings,
    encoder: Any,
    judges: Mapping[str, Judge],
) -> list[Match | None]:
    """A claim is compared with the source that it names; one that names none with all of them."""
    known = {source.id for source in sources}
    found: list[Match | None] = [None] * len(claims)
    for name in sorted({claim.source for claim in claims}):
        if name and name not in known:
            continue
        places = [place for place, claim in enumerate(claims) if claim.source == name]
        pool = [source for source in sources if name in ("", source.id)]
        texts = [claims[place].text for place in places]
        made = verify(texts, pool, settings, encoder, judges)
        for place, match in zip(places, made, strict=True):
            found[place] = match
    return found


def _measured(claim: Claim, figures: str | Path | None, there: Collection[str] | None) -> Verdict:
    if claim.measure is None:
        reason = claim.scope or "no figure of this project measures it"
        return Verdict(claim=claim.id, reason=reason)
    if figures is None:
        return Verdict(claim=claim.id, reason="no figures were given")
    found = asdict(judge(claim.measure, figures, there))
    if claim.scope:
        found["reason"] += f" ({claim.scope})"
    return Verdict(claim=claim.id, **found)


def _compared(
    verdict: Verdict, claim: Claim, match: Match, sources: Sequence[Source], settings: ClaimSettings
) -> Verdict:
    own = [source for source in sources if claim.source in ("", source.id)]
    quoted = bool(find_quotation(claim.quotation, own)) if claim.quotation else True
    if match.sentence is None or not match.checks["tfidf"]:
        written = "not found"
    else:
        written = "backed" if quoted and match.passed(settings.checks) else "doubtful"
    checks = {**match.checks, "quotation": quoted}
    asked = (*settings.checks, *(["quotation"] if claim.quotation else []))
    failed = [name for name in asked if not checks.get(name, False)]
    return replace(
        verdict,
        written=written,
        tfidf=round(match.tfidf, 4),
        dense=None if match.dense is None else round(match.dense, 4),
        sentence=match.sentence.text if match.sentence else "",
        sentence_source=match.sentence.source if match.sentence else "",
        checks=checks,
        decided=f"failed: {', '.join(failed)}" if failed else f"passed: {', '.join(asked)}",
    )


def _tier(verdict: Verdict) -> str:
    if verdict.measured == "contradicted":
        return "X"
    good = (verdict.measured == "supported") + (verdict.written == "backed")
    if good:
        return "A" if good == 2 else "B"
    return "C" if verdict.written == "doubtful" or verdict.measured == "undecided" else "D"
