"""Room 08 of a profile: its literature, claims and model, and a run folder that holds what was
judged.

The tables that claims name are read where the notebooks put them; which ones, with their content
and the runs behind them, is part of the plan, so a changed table or a run that is gone is judged
anew.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from negfail_nb.claims.asking import open_ask, player_name
from negfail_nb.claims.checking import Checked, check_claims
from negfail_nb.claims.evidence import finished_runs, origin_runs, used_files
from negfail_nb.claims.extraction import extract_claims, extract_with_model
from negfail_nb.claims.literature import Literature, merge, read_folder
from negfail_nb.claims.pairs import make_pairs
from negfail_nb.claims.records import (
    Claim,
    Source,
    Verdict,
    make,
    paper_claims,
    paper_sources,
    read_claims,
    read_sources,
    write_records,
)
from negfail_nb.claims.report import Report, write_report
from negfail_nb.claims.reviewing import Opinion, Review, Round, review
from negfail_nb.claims.searching import ArxivSearch, FolderSearch, search
from negfail_nb.claims.verification import encoder_name, open_encoder
from negfail_nb.claims.weakness import check_weakness, load_pairs
from negfail_nb.csvs import read_csv, write_csv
from negfail_nb.runs import fingerprint, plain, write_json
from negfail_nb.settings import ClaimSettings, Profile
from negfail_nb.trajectory import Problem

if TYPE_CHECKING:
    import pandas as pd

CLAIMS, SOURCES, VERDICTS, CANDIDATES = (
    "claims.json",
    "sources.json",
    "verdicts.json",
    "candidates.json",
)
REVIEW, NOTES, WEAKNESS = "review.json", "notes.json", "weakness.csv"
CHOSEN_ON, HELD_OUT, GENERATED = "chosen on", "held out", "generated"
_GENERATED = 40  # pairs: what sentence vectors have seconds for


@dataclass(frozen=True, slots=True)
class Judged:
    """What a run folder of room 08 holds.

    Attributes
    ----------
    checked, review
        The claims with their verdicts, and what the three roles said.
    candidates
        Claims that the sources offer, by rules or a model; nobody has judged them.
    weakness
        Of `measure_weakness`; the column ``pairs`` says on which.
    merged
        Sources that were found to be one.
    """

    checked: Checked
    review: Review
    candidates: tuple[Claim, ...]
    weakness: pd.DataFrame
    merged: tuple[tuple[str, str, str], ...]

    def _repr_html_(self) -> str:
        return self.checked._repr_html_()


def plan_claims(
    profile: Profile, home: Path, figures: Path
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Return what the verdicts of a profile depend on: settings, and files by name."""
    settings, sources = profile.claims, profile.literature
    claims = _claims(settings, home)
    tables = list(used_files([c.measure for c in claims if c.measure], figures))
    behind = {run for table in tables for run in origin_runs(table)}
    asked = {
        "asked": fingerprint(
            [plain(claim) for claim in claims]
        ),  # also where they come with the package
        "sources": ""
        if sources.folder
        else fingerprint([plain(source) for source in paper_sources()]),
        "claims": resolved(profile),
        "literature": {k: v for k, v in plain(sources).items() if k != "timeout"},
        "gone": sorted(behind - finished_runs(home / "runs")),
        "players": [
            player_name(profile, player) for player in (settings.extraction, settings.roles)
        ],
    }
    files = {name: home / name for name in (settings.file, sources.folder) if name}
    beside = [
        path for table in tables for path in (table, table.with_suffix(".json")) if path.is_file()
    ]
    return asked, {**files, **{path.name: path for path in beside}}


def resolved(profile: Profile) -> ClaimSettings:
    """Return the settings with the encoder that ``auto`` means on this machine."""
    return replace(
        profile.claims, encoder=encoder_name(profile.claims.encoder, profile.retrieval.encoder)
    )


def judge_claims(profile: Profile, walk: Any, folder: Path, cache: Path) -> Judged:
    """Find sources, check the claims, let them be reviewed, and write all of it into a run folder.

    Parameters
    ----------
    profile
        With paths of its model seen from here.
    walk
        With ``home`` and ``figures``, as `negfail_nb.claims.check_claims` takes it.
    folder, cache
        The run folder, and where answers of searches are kept.
    """
    settings = resolved(profile)
    listed = _claims(settings, walk.home)
    found = open_literature(profile, walk.home, cache, {claim.source for claim in listed})
    encoder = open_encoder(settings.encoder)
    checked = check_claims(listed, found, walk, settings, encoder)
    candidates, refused = _candidates(profile, found)
    checked = replace(checked, problems=(*checked.problems, *refused))
    ask, name = open_ask(profile, settings.roles)
    weakness = measure_weakness(settings, encoder)
    judged = Judged(
        checked, review(checked, settings, ask, name), tuple(candidates), weakness, found.merged
    )
    _write(judged, folder)
    return judged


def measure_weakness(settings: ClaimSettings, encoder: Any = None) -> pd.DataFrame:
    """Return `check_weakness` on the pairs that the rules were chosen on, on those held out, and on
    generated ones.
    """
    import pandas as pd

    sets = {
        CHOSEN_ON: load_pairs(),
        HELD_OUT: load_pairs(held_out=True),
        GENERATED: make_pairs(_GENERATED),
    }
    parts = [
        check_weakness(pairs, settings, encoder).assign(pairs=name) for name, pairs in sets.items()
    ]
    return pd.concat(parts, ignore_index=True)


def open_literature(
    profile: Profile, home: Path, cache: Path, cited: Collection[str] = ()
) -> Literature:
    """Return the sources of a profile: those that come with the package, a folder's, or what a
    search finds.

    What is read from the folder and found elsewhere is merged; without queries the whole folder is
    taken.

    Parameters
    ----------
    profile, home, cache
        ``literature`` says what is searched; where paths start, and where answers of searches are
        kept.
    cited
        Ids of sources that claims name: those of the folder stay, under their ids, whatever a
        search finds.

    Raises
    ------
    FileNotFoundError, ValueError
        For a folder that is not there or holds nothing that can be read; where only a network is to
        be searched, and no query says for what.
    """
    settings = profile.literature
    given = (
        read_folder(home / settings.folder)
        if settings.folder
        else Literature(tuple(paper_sources()))
    )
    if not settings.queries:
        if "folder" not in settings.searches:
            raise ValueError(
                "literature.searches has no folder, and literature.queries is empty; say what to search"
            )
        return given
    made = {"folder": FolderSearch(given.sources), "arxiv": ArxivSearch()}
    today = datetime.now(UTC).date().isoformat()
    found = search(
        settings.queries, [made[name] for name in settings.searches], today, cache, settings
    )
    by_id = {source.id: source for source in found.sources}
    kept = [by_id.get(source.id, source) for source in given.sources if source.id in cited]
    others = [source for source in found.sources if source.id not in {one.id for one in kept}]
    joined = merge([*kept, *others])
    merged = given.merged + found.merged + joined.merged
    return Literature(joined.sources, given.problems + found.problems, merged)


def _claims(settings: ClaimSettings, home: Path) -> list[Claim]:
    return read_claims(home / settings.file) if settings.file else paper_claims()


def _candidates(profile: Profile, found: Literature) -> tuple[list[Claim], list[Problem]]:
    ask, _ = open_ask(profile, profile.claims.extraction)
    return extract_with_model(found.sources, ask) if ask else (extract_claims(found.sources), [])


def _write(judged: Judged, folder: Path) -> None:
    checked = judged.checked
    for name, kind, records in (
        (CLAIMS, "claims", checked.claims),
        (SOURCES, "sources", checked.sources),
        (VERDICTS, "verdicts", checked.verdicts),
        (CANDIDATES, "claims", judged.candidates),
    ):
        write_records(folder / name, kind, records)
    problems = [[p.file, p.record, p.reason] for p in checked.problems]
    write_json(
        folder / NOTES,
        {"problems": problems, "provenance": checked.provenance, "merged": judged.merged},
    )
    write_csv(judged.weakness, folder / WEAKNESS, float_format="%.6g")
    said = judged.review
    about = {"withdrawn": said.withdrawn, "passed": said.passed, "kind": said.kind}
    write_json(folder / REVIEW, {"rounds": [plain(one) for one in said.rounds], **plain(about)})


def read_judged(folder: Path) -> Judged:
    """Return what `judge_claims` wrote."""
    notes, verdicts = _json(folder / NOTES), _json(folder / VERDICTS)["verdicts"]
    checked = Checked(
        tuple(read_claims(folder / CLAIMS)),
        tuple(
            make(Verdict, record, f"{VERDICTS} {number}")
            for number, record in enumerate(verdicts, 1)
        ),
        _read_sources(folder / SOURCES),
        tuple(Problem(*problem) for problem in notes["problems"]),
        notes["provenance"],
    )
    merged = tuple(tuple(one) for one in notes["merged"])
    candidates = tuple(read_claims(folder / CANDIDATES))
    return Judged(
        checked, _read_review(folder / REVIEW), candidates, read_csv(folder / WEAKNESS), merged
    )


def write_profile_report(judged: Judged, walk: Any) -> Report:
    """Write the report of a profile into ``reports/<profile>/``; errors as `write_report`."""
    held_out = judged.weakness[judged.weakness["pairs"] != CHOSEN_ON]
    command = f"python -m negfail_nb claims --profile {walk.profile.name}"
    given = {"command": command, "settings": walk.profile.claims, "weakness": held_out}
    return write_report(judged.checked, walk.report, judged.review, **given)


def _read_sources(path: Path) -> tuple[Source, ...]:
    return tuple(read_sources(path))


def _read_review(path: Path) -> Review:
    record = _json(path)
    rounds = tuple(
        Round(
            tuple(r["stated"]),
            tuple(Opinion(**o | {"comments": tuple(o["comments"])}) for o in r["opinions"]),
        )
        for r in record["rounds"]
    )
    return Review(rounds, MappingProxyType(record["withdrawn"]), record["passed"], record["kind"])


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
