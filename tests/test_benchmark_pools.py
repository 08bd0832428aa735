"""06: pools of passages in memory and on disk: what they give back, damage, and the memory they
take.
"""

import shutil
import sys
import tracemalloc
from dataclasses import replace

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from negfail_nb.benchmarking.pools import MemoryPool, Pool
from negfail_nb.benchmarking.records import Passage

PASSAGES = (
    Passage("Aria", ("Its capital is Dobal.",)),
    Passage("Dobal", ("Old.", " On the Ember.")),
    Passage("X", ()),
)

texts = st.text(st.characters(codec="utf-8"), max_size=12)
passages_of_any_text = st.lists(
    st.builds(Passage, texts, st.lists(texts, max_size=4).map(tuple)), min_size=1
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(passages_of_any_text)
def test_a_pool_on_disk_gives_back_what_it_was_given_and_finds_titles_as_a_list_does(
    tmp_path, passages
):
    pool, memory = Pool.build(passages, tmp_path / "pool"), MemoryPool(passages)
    assert list(Pool.open(tmp_path / "pool")) == list(pool) == list(memory) == passages
    assert len(pool) == len(memory) == len(passages) and pool.content == memory.content
    for title in {p.title for p in passages} | {"no such title"}:
        expected = [number for number, p in enumerate(passages) if p.title == title]
        assert list(pool.find(title)) == list(memory.find(title)) == expected


def test_titles_whose_hashes_agree_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[Pool.__module__], "title_hash", lambda title: 7)
    pool = Pool.build(PASSAGES * 40, tmp_path / "pool")
    assert pool.find("Dobal") == tuple(range(1, 120, 3)) and pool.find("Nobody") == ()


@pytest.mark.parametrize(
    "other",
    [
        [replace(PASSAGES[0], title="Arian"), *PASSAGES[1:]],
        [replace(PASSAGES[0], sentences=("Its capital is Dobam.",)), *PASSAGES[1:]],
        [PASSAGES[0], replace(PASSAGES[1], sentences=("Old. On", " the Ember.")), PASSAGES[2]],
        [PASSAGES[1], PASSAGES[0], PASSAGES[2]],
        PASSAGES[:2],
    ],
    ids=["title", "text", "border", "order", "count"],
)
def test_the_fingerprint_changes_with_the_passages(tmp_path, other):
    for make in (MemoryPool, lambda passages: Pool.build(passages, tmp_path / "pool")):
        assert make(other).content != make(PASSAGES).content == make(list(PASSAGES)).content


@pytest.mark.parametrize("number", [-1, 3, 10**12])
@pytest.mark.parametrize("on_disk", [True, False])
def test_a_number_that_no_passage_has_is_refused(tmp_path, number, on_disk):
    pool = Pool.build(PASSAGES, tmp_path / "pool") if on_disk else MemoryPool(PASSAGES)
    with pytest.raises(
        IndexError, match=f"there is no passage {number}; the pool has those from 0 to 2"
    ):
        pool[number]


def damage_byte(folder):
    content = bytearray((folder / "text").read_bytes())
    content[3] ^= 1
    (folder / "text").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_byte, "text is not as it was written; build the pool again"),
        (lambda folder: (folder / "ends").write_bytes(b""), "ends is not as it was written"),
        (lambda folder: (folder / "hashes").unlink(), "hashes is missing"),
        (
            lambda folder: (folder / "manifest.json").unlink(),
            "holds no finished pool: it has no manifest.json",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text("{"),
            "no manifest of pool: not valid JSON",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text('{"format": 9, "files": {}}'),
            "its format is 9, and",
        ),
        (shutil.rmtree, "holds no finished pool"),
    ],
)
def test_a_damaged_pool_is_refused(tmp_path, damage, message):
    Pool.build(PASSAGES, tmp_path / "pool")
    damage(tmp_path / "pool")
    with pytest.raises(ValueError, match=message):
        Pool.open(tmp_path / "pool")


def test_a_build_that_fails_leaves_the_old_pool_and_readers_of_a_replaced_one_keep_theirs(tmp_path):
    old = Pool.build(PASSAGES, tmp_path / "pool")
    for bad, message in (
        ([], "no passages"),
        ([*PASSAGES, Passage("\ud800", ())], r"passage 3 \('\\ud800'\) holds"),
    ):
        with pytest.raises(ValueError, match=message):
            Pool.build(bad, tmp_path / "pool")
        with pytest.raises(ValueError, match=message):
            MemoryPool(bad)
    assert list(Pool.open(tmp_path / "pool")) == list(PASSAGES)
    assert (
        len(list((tmp_path / "pool").iterdir())) == 6
    )  # five files and the manifest, nothing half-written
    new = Pool.build(PASSAGES[1:], tmp_path / "pool")
    assert list(old) == list(PASSAGES) and list(new) == list(PASSAGES[1:])


def test_a_build_that_is_stopped_while_files_are_replaced_leaves_no_pool_that_passes_for_one(
    tmp_path, monkeypatch
):
    Pool.build(PASSAGES, tmp_path / "pool")
    done = []

    def stopped(source, target):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(shutil.move(source, target))

    monkeypatch.setattr("os.replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        Pool.build([replace(PASSAGES[0], title="Area"), *PASSAGES[1:]], tmp_path / "pool")
    with pytest.raises(ValueError, match="no finished pool"):
        Pool.open(tmp_path / "pool", verify=False)


def test_building_holds_the_titles_hashes_in_memory_and_no_passages(tmp_path):
    sentences = tuple(
        f" Sentence {n} of a passage that is about as long as others are." for n in range(6)
    )
    passages = (Passage(f"Title {number}", (*sentences, str(number))) for number in range(20_000))
    Pool.build(PASSAGES, tmp_path / "warm")  # imports
    tracemalloc.start()
    pool = Pool.build(passages, tmp_path / "pool")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "pool" / "text").stat().st_size > 7e6 and peak < 3e6
    assert [pool[n].sentences[-1] for n in (0, 1023, 1024, 19_999)] == [
        "0",
        "1023",
        "1024",
        "19999",
    ]
    assert [passage.title for passage in pool] == [f"Title {number}" for number in range(20_000)]


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux says how much of a process's memory is of files"
)
def test_a_pool_that_is_walked_through_does_not_fill_the_memory(tmp_path, monkeypatch):
    def of_files():
        return psutil.Process().memory_info().shared / 2**20

    monkeypatch.setattr(sys.modules[Pool.__module__], "_KEPT", 1024)
    pool = Pool.build((Passage(f"{n}", ("x" * 8192,)) for n in range(8192)), tmp_path / "pool")
    before = of_files()
    assert sum(len(passage.text) for passage in pool) == 2**26
    assert of_files() - before < 32, "64 MB were read"
    assert pool[5].title == "5"
