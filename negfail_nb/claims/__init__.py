"""08: every claim with its source text and its measured figure."""

from negfail_nb.claims.checking import Checked, check_claims
from negfail_nb.claims.extraction import extract_claims, open_ask
from negfail_nb.claims.judging import open_judges
from negfail_nb.claims.literature import Literature, open_literature, read_folder
from negfail_nb.claims.records import (
    Claim,
    Measure,
    Source,
    Term,
    Verdict,
    paper_claims,
    paper_sources,
    read_claims,
    read_sources,
    write_records,
)
from negfail_nb.claims.report import RecordAltered, Report, read_corrections, write_report
from negfail_nb.claims.reviewing import Review, review
from negfail_nb.claims.verification import open_encoder
from negfail_nb.claims.weakness import check_weakness, load_pairs, make_pairs, measure_weakness
from negfail_nb.settings import ClaimSettings

__all__ = [
    "Checked",
    "Claim",
    "ClaimSettings",
    "Literature",
    "Measure",
    "RecordAltered",
    "Report",
    "Review",
    "Source",
    "Term",
    "Verdict",
    "check_claims",
    "check_weakness",
    "extract_claims",
    "load_pairs",
    "make_pairs",
    "measure_weakness",
    "open_ask",
    "open_encoder",
    "open_judges",
    "open_literature",
    "paper_claims",
    "paper_sources",
    "read_claims",
    "read_corrections",
    "read_folder",
    "read_sources",
    "review",
    "write_records",
    "write_report",
]
