"""02 quality: why a run failed, which failures teach, what is left out and counted, and how
questions are split.

`assessment` has `assess`, `report` what it returns; `failures` the kinds of failure, `filters` the
filters, `streaming` the same for more runs than memory holds. `judging` says which steps of a
failed run are worth learning, by rules, and `judges` by a model.
"""

from negfail_nb.quality.assessment import assess
from negfail_nb.quality.failures import KINDS, Finding, Kind, Run, examine, failure_kind, read
from negfail_nb.quality.filters import FILTERS, Filter, quality_filter
from negfail_nb.quality.judges import judge
from negfail_nb.quality.judging import Judgement, judge_steps, known_ways, way_of
from negfail_nb.quality.report import Kept, Removal, Report, Stage

__all__ = [
    "FILTERS",
    "Filter",
    "Finding",
    "Judgement",
    "KINDS",
    "Kept",
    "Kind",
    "Removal",
    "Report",
    "Run",
    "Stage",
    "assess",
    "examine",
    "failure_kind",
    "judge",
    "judge_steps",
    "known_ways",
    "way_of",
    "quality_filter",
    "read",
]
