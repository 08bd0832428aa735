"""08: every claim with its source text and its measured figure."""

from negfail_nb.claims.checking import TIERS, Checked, check_claims
from negfail_nb.claims.corrections import RecordAltered, append_correction, read_corrections
from negfail_nb.claims.evidence import judge
from negfail_nb.claims.extraction import extract_claims, extract_with_model
from negfail_nb.claims.literature import Literature, merge, rank, read_folder, to_bibtex
from negfail_nb.claims.pairs import make_pairs
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
from negfail_nb.claims.report import Report, write_report
from negfail_nb.claims.reviewing import Review, review
from negfail_nb.claims.searching import ArxivSearch, FolderSearch, search
from negfail_nb.claims.verification import verify
from negfail_nb.claims.weakness import check_weakness, load_pairs
from negfail_nb.settings import ClaimSettings, LiteratureSettings

__all__ = [
    "ArxivSearch",
    "FolderSearch",
    "LiteratureSettings",
    "TIERS",
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
    "append_correction",
    "check_claims",
    "check_weakness",
    "extract_claims",
    "extract_with_model",
    "judge",
    "load_pairs",
    "make_pairs",
    "merge",
    "paper_claims",
    "paper_sources",
    "rank",
    "read_claims",
    "read_corrections",
    "read_folder",
    "read_sources",
    "review",
    "search",
    "to_bibtex",
    "verify",
    "write_records",
    "write_report",
]
