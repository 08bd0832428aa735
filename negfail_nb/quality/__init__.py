"""02 quality: why a run failed, which failures teach, what is left out and counted, and how
questions are split.

`assessment` has `assess` and its `Report`; `failures` the kinds of failure, `filters` the filters.
"""

from negfail_nb.quality.assessment import Removal, Report, Stage, assess
from negfail_nb.quality.failures import KINDS, Finding, Kind, Run, examine, failure_kind, read
from negfail_nb.quality.filters import FILTERS, Filter, quality_filter

__all__ = [
    "FILTERS",
    "Filter",
    "Finding",
    "KINDS",
    "Kind",
    "Removal",
    "Report",
    "Run",
    "Stage",
    "assess",
    "examine",
    "failure_kind",
    "quality_filter",
    "read",
]
