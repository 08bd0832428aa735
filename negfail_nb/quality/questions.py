"""Files of evaluation questions, which must not be trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path


def read_questions(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Read evaluation questions from JSON lists or JSON lines of records with a "question".

    Returns
    -------
    list
        ``(question, where it stands)``.

    Raises
    ------
    ValueError
        Where a file is missing, is not JSON, or holds a record without a question; the text names
        file and record.
    """
    found = []
    for path in map(Path, paths):
        for number, record in enumerate(_records(path), 1):
            question = record.get("question") if isinstance(record, Mapping) else None
            if not isinstance(question, str) or not question.strip():
                raise ValueError(
                    f"{path}: record {number} has no text under 'question'; every record needs one"
                )
            found.append((question, f"{path.name}:{number}"))
    return found


def _records(path: Path) -> list:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: cannot read the evaluation questions: {error}; correct `evaluation`"
        ) from error
    try:
        if content.lstrip().startswith("["):
            return json.loads(content)
        # Not splitlines(): U+2028 and U+0085 may stand raw in a JSON string.
        return [json.loads(line) for line in content.split("\n") if line.strip()]
    except ValueError as error:
        text = (
            f"{path}: not JSON: {error}; `evaluation` takes a JSON list, or one JSON record a line"
        )
        raise ValueError(text) from error
