"""Whether the grader agrees with the labels of logs: ``python -m negfail_nb.logs PATH``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING

from negfail_nb.grading import grade, normalize_answer
from negfail_nb.numeric import parse_number
from negfail_nb.trajectory import Trajectory

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["id", "format", "task", "kind", "label", "em", "prediction", "reference"]
CLOSE = Fraction(5, 100)  # numbers that MINT's checker takes for equal differ by up to so much


def label_agreement(logs: Iterable[Trajectory]) -> pd.DataFrame:
    """Return the trajectories on whose success the log and our grader disagree.

    A log without labels was labelled by the grader, so it cannot disagree.

    Returns
    -------
    DataFrame
        One row per disagreement: id, format, task, kind, label (the log's), em (ours), prediction,
        reference. Kinds: ``no turns``, ``other writing`` (equal for us, not for the log), ``close
        number`` (within 5 %), ``ends in it`` (a sum that ends in "= reference"), ``contains it``
        (as words), ``inside a number`` and ``other``. ``attrs["compared"]`` is the number of
        trajectories that have a label and a reference answer.
    """
    import pandas as pd

    rows = []
    compared = 0
    for t in logs:
        if t.success is None or not t.answer:
            continue
        compared += 1
        em = grade(t.prediction, t.answer, t.task)["em"]
        if bool(em) != t.success:
            rows.append(
                (t.id, t.source.format, t.task, _kind(t), t.success, em, t.prediction, t.answer)
            )
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.attrs["compared"] = compared
    return table


def _kind(t: Trajectory) -> str:
    if t.termination == "empty":
        return "no turns"
    if not t.success:
        return "other writing"
    ours = parse_number(t.prediction or "")
    theirs = parse_number(t.answer)
    if ours is not None and theirs and ours != theirs and abs(ours - theirs) <= CLOSE * abs(theirs):
        return "close number"
    said = normalize_answer(t.prediction or "")
    wanted = normalize_answer(t.answer)
    if re.search(rf"=\W*{re.escape(t.answer)}\b", (t.prediction or "").replace(",", "")):
        return "ends in it"
    if re.search(rf"\b{re.escape(wanted)}\b", said):
        return "contains it"
    return "inside a number" if wanted.isdigit() and wanted in said.replace(" ", "") else "other"
