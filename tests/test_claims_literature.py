"""Sources from a folder and from searches: read, merged, ranked, kept."""

import builtins
import json
import sys
from datetime import datetime
from types import SimpleNamespace

import pytest

from negfail_nb.claims import (
    Source,
    arxiv_search,
    merge,
    rank,
    read_folder,
    read_sources,
    search,
    to_bibtex,
    write_records,
)
from negfail_nb.claims.readers import clean_doi

BIB = """
@comment{not an entry}
@article{wang2024, title = {Learning {F}rom Failure}, author = "Renxi Wang and Haonan Li", year = 2024,
  doi = {https://doi.org/10.1/ABC}, abstract = {Failures help {NAT}.}}
@inproceedings{b, title={Second}, booktitle={ACL}}
"""
OPENALEX = {"results": [{"id": "https://openalex.org/W1", "display_name": "Learning from failure!",
    "publication_year": 2024, "doi": "https://doi.org/10.1/abc", "authorships": [{"author": {"display_name": "Wang"}}],
    "abstract_inverted_index": {"Failures": [0], "agents": [3], "help": [1], "the": [2]}}]}  # fmt: skip
SCHOLAR = {"data": [{"paperId": "p9", "title": "Another paper", "abstract": "Text.", "externalIds": {"DOI": "10.2/x"},
    "authors": [{"name": "A B"}], "year": 2023}]}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "a.bib").write_text(BIB)
    (tmp_path / "openalex.json").write_text(json.dumps(OPENALEX))
    (tmp_path / "in" / "scholar.json").write_text(json.dumps(SCHOLAR))
    (tmp_path / "note.md").write_text("# A note\n\nRetrieval is cheap.")
    return tmp_path


def test_a_folder_is_read_and_equal_papers_are_one(folder):
    found = read_folder(folder)
    assert {source.title for source in found.sources} == {"Learning From Failure", "Second", "Another paper", "A note"}
    assert found.merged == (("wang2024", "W1", "same DOI"),)
    paper = found.sources[0]
    assert (paper.authors, paper.year, paper.doi) == (("Renxi Wang", "Haonan Li"), "2024", "10.1/abc")
    assert paper.text == "Failures help the agents"  # the longer abstract
    assert next(s for s in found.sources if s.title == "Another paper").file == "in/scholar.json"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"{", "Expecting"),
        ("a.json", b"[1]", "list of objects"),
        ("a.json", b"[" * 100_000, ""),
        ("a.json", b'[{"year": 1}]', "neither title nor abstract"),
        ("a.bib", b"@article{x, title = {open", "not closed"),
        ("a.bib", b"nothing", "no BibTeX entry"),
        ("a.txt", b"  \n", "empty"),
        ("a.txt", b"\xff\xfe\xfa", "utf-8"),
        ("a.docx", b"PK", "are not read"),
    ],
)
def test_what_cannot_be_read_is_a_problem_and_the_rest_is_read(folder, name, content, said):
    (folder / "bad").mkdir()
    (folder / "bad" / name).write_bytes(content)
    found = read_folder(folder)
    assert [p.file for p in found.problems] == [f"bad/{name}"] and said in found.problems[0].reason
    assert len(found) == 4


def test_a_folder_without_sources_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no source in"):
        read_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["Page one.", ""])
def test_a_pdf_gives_its_pages_or_a_problem(folder, monkeypatch, text):
    page = SimpleNamespace(extract_text=lambda: text)
    reader = SimpleNamespace(PdfReader=lambda path: SimpleNamespace(pages=[page, page], metadata={"/Title": "A paper"}))
    monkeypatch.setitem(sys.modules, "pypdf", reader)
    (folder / "p.pdf").write_bytes(b"%PDF")
    found = read_folder(folder)
    read = [source.text for source in found.sources if source.id == "p"]
    assert read == (["Page one.\fPage one."] if text else [])
    assert [p.reason.split(":")[0] for p in found.problems] == (
        [] if text else ["the PDF has no text (scanned pages?)"]
    )


def test_what_is_not_installed_says_so(folder, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name in ("pypdf", "arxiv"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    (folder / "p.pdf").write_bytes(b"%PDF")
    assert "pip install pypdf" in read_folder(folder).problems[0].reason
    with pytest.raises(ValueError, match="pip install arxiv"):
        arxiv_search("agents")


@pytest.mark.parametrize(
    ("one", "two", "kept"),
    [
        (Source(id="a", title="Agents that learn"), Source(id="b", title="Agents that learn."), ["a"]),
        (Source(id="a", title="Agents that learn"), Source(id="b", title="Agents that lean"), ["a"]),
        (Source(id="a", title="Agents, part 1"), Source(id="b", title="Agents, part 2"), ["a", "b"]),
        (Source(id="a", doi="10.1/x"), Source(id="b", doi="10.1/x"), ["a"]),
        (Source(id="a", title="Whales"), Source(id="a", title="Retrieval of passages"), ["a", "a-2"]),
        (Source(id="a"), Source(id="b"), ["a", "b"]),
    ],
)
def test_one_of_each_is_kept(one, two, kept):
    assert [source.id for source in merge([one, two]).sources] == kept


def test_sources_are_ranked_by_the_query_that_fits_best():
    sources = [Source(id="w", title="Whales"), Source(id="r", title="Retrieval", text="dense passages")]
    ranked = rank(sources, ["dense retrieval", "ships"])
    assert [source.id for source, _ in ranked] == ["r", "w"] and ranked[0][1] > 0.5 and ranked[1][1] == 0
    assert rank([Source(id="e")], ["x"]) == [(Source(id="e"), 0.0)]


def test_a_search_is_kept_with_query_and_date_and_not_repeated(tmp_path):
    asked = []

    def library(query, limit):
        asked.append(query)
        return [Source(id=query.replace(" ", "-"), title=f"On {query}"), Source(id="both", title="Common words")]

    first = search(["agents", "dense retrieval"], [library], "2026-01-02", cache=tmp_path)
    again = search(["agents", "dense retrieval"], [library], "2026-09-09", cache=tmp_path)
    assert sorted(asked) == ["agents", "dense retrieval"] and first == again
    assert {source.retrieved for source in again.sources} == {"2026-01-02"}
    assert sorted(source.id for source in first.sources) == ["agents", "both", "dense-retrieval"]


def test_a_search_that_times_out_is_a_problem_and_is_asked_again(tmp_path):
    def slow(query, limit):
        raise TimeoutError("no answer in 10 s")

    found = search(["agents"], [slow, lambda q, n: [Source(id="a", title="A")]], "2026-01-02", cache=tmp_path)
    assert str(found.problems[0]) == "slow:agents: TimeoutError: no answer in 10 s"
    assert [source.id for source in found.sources] == ["a"]
    assert not list(tmp_path.glob("slow*"))


def test_arxiv_answers_become_sources(monkeypatch):
    result = SimpleNamespace(
        entry_id="http://arxiv.org/abs/2402.11651v2", title="Learning From\n Failure", authors=["Renxi Wang"],
        published=datetime(2024, 2, 18), doi=None, summary="Failures\nhelp.",
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "arxiv", SimpleNamespace(Search=lambda **kwargs: kwargs))
    client = SimpleNamespace(results=lambda asked: [result] if asked == {"query": "nat", "max_results": 5} else [])
    (source,) = arxiv_search("nat", 5, client)
    assert (source.id, source.title, source.year, source.text) == (
        "2402.11651",
        "Learning From Failure",
        "2024",
        "Failures help.",
    )


def test_sources_come_back_as_they_were_written(folder, tmp_path):
    sources = list(read_folder(folder).sources)
    assert read_sources(write_records(tmp_path / "out" / "s.json", "sources", sources)) == sources


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"schema": 9, "sources": []}, "schema"),
        ({"schema": 1, "sources": [{"id": "a"}, {"id": "a"}]}, "has the id a"),
        ({"schema": 1, "sources": [{"id": "a", "colour": 1}]}, "sources 1: unknown fields colour"),
        ({"schema": 1, "sources": [{}]}, "sources 1.*id"),
        ({"schema": 1, "sources": [3]}, "sources 1 is int"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, record, said):
    (tmp_path / "s.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=said):
        read_sources(tmp_path / "s.json")


def test_bibtex_of_foreign_text_runs_no_macro(tmp_path):
    text = to_bibtex([Source(id="b}c", title=r"50% of \input{/etc/passwd} & more", authors=("A", "B"))])
    assert "\\input" not in text and r"50\% of" in text and text.startswith("@misc{b-c,")
    (tmp_path / "x.bib").write_text(text)
    assert read_folder(tmp_path).sources[0].authors == ("A", "B")


def test_a_doi_has_one_form():
    assert {clean_doi(d) for d in ("10.1/A", "https://doi.org/10.1/a", "doi: 10.1/a")} == {"10.1/a"}
