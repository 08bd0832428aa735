"""The record of corrections: append-only, each entry with the hash of the one before, so that a
change shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from negfail_nb.runs import fingerprint

NAME = "corrections.jsonl"
_WATCHED = ("measured", "written", "tier")


class RecordAltered(ValueError):
    """The record of corrections is not the one that was written; the text names the line."""


def read_corrections(path: str | Path) -> list[dict[str, Any]]:
    """Return the entries, oldest first; none where there is no file.

    Raises
    ------
    RecordAltered
        Where a line was changed, taken out or put in. A record that lost its last lines cannot be
        told from a shorter one, unless a report was kept: it names the number of entries and the
        last hash.
    """
    path = Path(path)
    entries: list[dict[str, Any]] = []
    if not path.is_file():
        return entries
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            whole = fingerprint({k: v for k, v in entry.items() if k != "hash"}) == entry["hash"]
            follows = entry["before"] == (entries[-1]["hash"] if entries else "")
        except (ValueError, TypeError, KeyError, AttributeError):
            whole = follows = False
        if not (whole and follows):
            raise RecordAltered(
                f"{path.name}, line {number}: changed after it was written; restore it from a copy"
            )
        entries.append(entry)
    return entries


def append_correction(
    path: str | Path, date: str, claim: str, change: str, reason: str
) -> dict[str, Any]:
    """Append one entry and return it.

    Raises
    ------
    RecordAltered
        Where the record was altered before.
    """
    entries = read_corrections(path)
    entry = {"date": date, "claim": claim, "change": change, "reason": reason}
    entry["before"] = entries[-1]["hash"] if entries else ""
    entry["hash"] = fingerprint(entry)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("a", encoding="utf-8", newline="\n") as stream:
        stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
    return entry


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return claim, change and reason for each verdict that differs between two reports' JSON
    values.
    """
    before, after = (
        {item["claim"]: item for item in report.get("verdicts", [])} for report in (old, new)
    )
    found = []
    for name in [*before, *(n for n in after if n not in before)]:
        if name not in after:
            found.append((name, "the claim was taken out", ""))
        elif name in before:
            parts = [
                f"{k}: {before[name].get(k)} -> {after[name][k]}"
                for k in _WATCHED
                if before[name].get(k) != after[name][k]
            ]
            found += [(name, "; ".join(parts), after[name]["reason"])] if parts else []
    return found
