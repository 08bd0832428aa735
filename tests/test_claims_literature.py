"""Sources from a folder and from searches: read, merged, ranked, kept."""

import builtins
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import parse_qs, urlsplit

import pytest
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from negfail_nb.claims import Source, read_folder, read_sources, write_records
from negfail_nb.claims.literature import ArxivSearch, FolderSearch, merge, rank, search
from negfail_nb.claims.readers import clean_doi, to_bibtex
from negfail_nb.settings import LiteratureSettings

BIB = """
@comment{not an entry}
@article{wang2024, title = {Learning {F}rom Failure}, author = "Renxi Wang and Haonan Li",
  year = 2024, doi = {https://doi.org/10.1/ABC}, abstract = {Failures help {NAT}.}}
@inproceedings{b, title={Second}, booktitle={ACL}}
"""
OPENALEX = {
    "results": [
        {
            "id": "https://openalex.org/W1",
            "display_name": "Learning from failure!",
            "publication_year": 2024,
            "doi": "https://doi.org/10.1/abc",
            "authorships": [{"author": {"display_name": "Wang"}}],
            "abstract_inverted_index": {"Failures": [0], "agents": [3], "help": [1], "the": [2]},
        }
    ]
}
SCHOLAR = {
    "data": [
        {
            "paperId": "p9",
            "title": "Another paper",
            "abstract": "Text.",
            "externalIds": {"DOI": "10.2/x"},
            "authors": [{"name": "A B"}],
            "year": 2023,
        }
    ]
}


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
    assert {source.title for source in found.sources} == {
        "Learning From Failure",
        "Second",
        "Another paper",
        "A note",
    }
    assert found.merged == (("wang2024", "W1", "same DOI"),)
    paper = found.sources[0]
    assert (paper.authors, paper.year, paper.doi) == (
        ("Renxi Wang", "Haonan Li"),
        "2024",
        "10.1/abc",
    )
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
    assert len(found.sources) == 4


def test_a_folder_without_sources_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no source in"):
        read_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_folder(tmp_path / "nowhere")


def write_pdf(path, pages, title="A paper"):
    """Write a PDF of one line a page; a page without text is an empty picture, as a scan is."""
    with PdfPages(path, metadata={"Title": title}) as pdf:
        for text in pages:
            figure = Figure(figsize=(6, 2))
            if text:
                figure.text(0.1, 0.5, text)
            pdf.savefig(figure)


def test_a_pdf_gives_its_pages(folder):
    write_pdf(folder / "p.pdf", ["NAT improves EM by 9 points.", "Whales sing."])
    found = read_folder(folder)
    (paper,) = [source for source in found.sources if source.id == "p"]
    assert paper.title == "A paper" and [page.strip() for page in paper.text.split("\f")] == [
        "NAT improves EM by 9 points.",
        "Whales sing.",
    ]
    assert not found.problems


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "the PDF has no text (scanned pages?)"), (b"%PDF-1.7 cut", "not a readable PDF")],
)
def test_a_pdf_without_text_is_a_problem_and_the_rest_is_read(folder, content, said):
    if content is None:
        write_pdf(folder / "p.pdf", ["", ""])
    else:
        (folder / "p.pdf").write_bytes(content)
    found = read_folder(folder)
    assert (
        len(found.sources) == 4
        and [p.file for p in found.problems] == ["p.pdf"]
        and said in found.problems[0].reason
    )


def test_what_is_not_installed_says_so(folder, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name in ("pypdf", "arxiv"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    (folder / "p.pdf").write_bytes(b"%PDF")
    assert "pip install 'negfail_nb[claims]'" in read_folder(folder).problems[0].reason
    with pytest.raises(ValueError, match=r"pip install 'negfail_nb\[claims\]'"):
        ArxivSearch()("agents", 5)


@pytest.mark.parametrize(
    ("one", "two", "kept"),
    [
        (
            Source(id="a", title="Agents that learn"),
            Source(id="b", title="Agents that learn."),
            ["a"],
        ),
        (
            Source(id="a", title="Agents that learn"),
            Source(id="b", title="Agents that lean"),
            ["a"],
        ),
        (
            Source(id="a", title="Agents, part 1"),
            Source(id="b", title="Agents, part 2"),
            ["a", "b"],
        ),
        (Source(id="a", doi="10.1/x"), Source(id="b", doi="10.1/x"), ["a"]),
        (
            Source(id="a", title="Whales"),
            Source(id="a", title="Retrieval of passages"),
            ["a", "a-2"],
        ),
        (Source(id="a"), Source(id="b"), ["a", "b"]),
    ],
)
def test_one_of_each_is_kept(one, two, kept):
    assert [source.id for source in merge([one, two]).sources] == kept


def test_sources_are_ranked_by_the_query_that_fits_best():
    sources = [
        Source(id="w", title="Whales"),
        Source(id="r", title="Retrieval", text="dense passages"),
    ]
    ranked = rank(sources, ["dense retrieval", "ships"])
    assert (
        [source.id for source, _ in ranked] == ["r", "w"]
        and ranked[0][1] > 0.5
        and ranked[1][1] == 0
    )
    assert rank([Source(id="e")], ["x"]) == [(Source(id="e"), 0.0)]


@dataclass
class Library:
    """A search of a place that has something on every query, and remembers what it was asked."""

    name: str = "library"
    asked: list = field(default_factory=list)

    def __call__(self, query, limit):
        self.asked.append(query)
        return [
            Source(id=query.replace(" ", "-"), title=f"On {query}"),
            Source(id="both", title="Common words"),
        ]


def test_a_search_is_kept_with_query_and_date_and_not_repeated(tmp_path):
    library = Library()
    first = search(["agents", "dense retrieval"], [library], "2026-01-02", tmp_path)
    again = search(["agents", "dense retrieval"], [library], "2026-09-09", tmp_path)
    assert sorted(library.asked) == ["agents", "dense retrieval"] and first == again
    assert {source.retrieved for source in again.sources} == {"2026-01-02"}
    assert sorted(source.id for source in first.sources) == ["agents", "both", "dense-retrieval"]
    assert {source.query for source in first.sources} == {"agents", "dense retrieval"}


def test_two_places_do_not_share_what_is_kept(tmp_path):
    for name in ("one", "two"):
        library = Library(name)
        search(["agents"], [library], "2026-01-02", tmp_path)
        assert library.asked == ["agents"]


def test_a_folder_is_searched_anew_each_time_and_only_what_fits_is_taken(tmp_path):
    sources = [Source(id="w", title="Whales"), Source(id="r", title="Retrieval of passages")]
    found = search(["retrieval"], [FolderSearch(sources)], "2026-01-02", tmp_path)
    assert [(s.id, s.query, s.retrieved) for s in found.sources] == [("r", "retrieval", "")]
    assert not list(tmp_path.iterdir())


def test_what_is_not_found_is_told():
    found = search(["ships"], [FolderSearch([Source(id="w", title="Whales")])], "2026-01-02")
    assert [str(p) for p in found.problems] == ["folder:ships: nothing was found"]


def test_the_limit_holds_for_every_search():
    found = search(["a"], [Library()], "2026-01-02", settings=LiteratureSettings(limit=1))
    assert [source.id for source in found.sources] == ["a"]


# arXiv, through the package, from a server on loopback that answers in arXiv's form.

ENTRY = """<entry><id>http://arxiv.org/abs/2402.11651v2</id><updated>2024-04-16T00:00:00Z</updated>
<published>2024-02-18T17:10:07Z</published><title>Learning From Failure: Integrating Negative
  Examples</title><summary>Failures\nhelp &lt;script&gt;agents&lt;/script&gt;.</summary>
<author><name>Renxi Wang</name></author>
<author><name>Haonan Li</name></author></entry>"""
ERROR = """<entry><id>http://arxiv.org/api/errors#bad</id><updated>2024-04-16T00:00:00Z</updated>
<published>2024-02-18T17:10:07Z</published><title>Error</title>
<summary>incorrect query</summary></entry>"""
FEED = """<?xml version="1.0" encoding="UTF-8"?><feed xmlns="http://www.w3.org/2005/Atom"
 xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/">
<opensearch:totalResults>{}</opensearch:totalResults>{}</feed>"""


class Arxiv(BaseHTTPRequestHandler):
    """Answers a query for "wrong" with an error, for "slow" much too late, for "nothing" with
    nothing.
    """

    def do_GET(self):
        query = parse_qs(urlsplit(self.path).query)["search_query"][0]
        if query == "slow":
            self.server.stopped.wait(60)
        entries = {"wrong": [ERROR], "nothing": []}.get(query, [ENTRY])
        body = FEED.format(len(entries), "".join(entries)).encode()
        self.send_response(503 if query == "down" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def arxiv_client():
    arxiv = pytest.importorskip("arxiv")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Arxiv)
    server.stopped = Event()
    Thread(target=server.serve_forever, daemon=True).start()
    client = arxiv.Client(delay_seconds=0, num_retries=0)
    client.query_url_format = f"http://127.0.0.1:{server.server_port}/api/query?{{}}"
    yield client
    server.stopped.set()
    server.shutdown()
    server.server_close()


def test_arxiv_answers_become_sources_and_are_kept(arxiv_client, tmp_path):
    found = search(["failures"], [ArxivSearch(arxiv_client)], "2026-01-02", tmp_path)
    (source,) = found.sources
    assert (
        source.id == "2402.11651"
        and source.title == "Learning From Failure: Integrating Negative Examples"
    )
    assert (
        source.authors == ("Renxi Wang", "Haonan Li")
        and source.year == "2024"
        and source.retrieved == "2026-01-02"
    )
    assert (
        source.text == "Failures help <script>agents</script>."
    )  # data, escaped where it is shown
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["arxiv"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("wrong", "arXiv refused the query: incorrect query"),
        ("down", "HTTP 503"),
        ("nothing", "nothing was found"),
    ],
)
def test_what_arxiv_refuses_is_a_problem_and_is_not_kept(arxiv_client, tmp_path, query, said):
    found = search([query], [ArxivSearch(arxiv_client), Library()], "2026-01-02", tmp_path)
    assert len(found.problems) == 1 and said in str(found.problems[0])
    assert len(found.sources) == 2 and not list(tmp_path.glob("arxiv*"))


def test_a_search_that_hangs_is_given_up_and_the_others_are_used(arxiv_client, tmp_path):
    places = [ArxivSearch(arxiv_client), Library()]
    found = search(["slow"], places, "2026-01-02", tmp_path, LiteratureSettings(timeout=0.5))
    assert "arxiv:slow: no answer within 0.5 s (literature.timeout)" in str(found.problems[0])
    assert {source.id for source in found.sources} == {"both", "slow"} and not list(
        tmp_path.glob("arxiv*")
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"searches": ["scholar"]}, "searches has scholar; use folder, arxiv"),
        ({"limit": 0}, "1 to"),
    ],
)
def test_settings_of_the_literature_are_checked(fields, said):
    with pytest.raises(ValueError, match=said):
        LiteratureSettings(**fields)


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


def test_bibtex_of_others_is_read_with_its_strings_accents_and_equal_keys(tmp_path):
    text = r"""@string{acl = "Annual Meeting"}
@inproceedings{b, title={Sch{\"o}n \& good}, booktitle=acl, author={G{\"o}del, K. and B}}
@misc{b, title={Second of that key}}"""
    (tmp_path / "x.bib").write_text(text)
    first, second = read_folder(tmp_path).sources
    assert (first.title, first.venue) == ("Schön & good", "Annual Meeting")
    assert first.authors == ("Gödel, K.", "B") and second.title == "Second of that key"


def test_bibtex_of_foreign_text_runs_no_macro(tmp_path):
    text = to_bibtex(
        [Source(id="b}c", title=r"50% of \input{/etc/passwd} & more", authors=("A", "B"))]
    )
    assert "\\input" not in text and r"50\% of" in text and text.startswith("@misc{b-c,")
    (tmp_path / "x.bib").write_text(text)
    assert read_folder(tmp_path).sources[0].authors == ("A", "B")


def test_a_doi_has_one_form():
    assert {clean_doi(d) for d in ("10.1/A", "https://doi.org/10.1/a", "doi: 10.1/a")} == {"10.1/a"}
