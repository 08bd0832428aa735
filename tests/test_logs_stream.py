"""01 logs: a JSON text is read in a window: as json reads it, however it is cut, and within the
limit.
"""

import io
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from negfail_nb.logs import load_trajectories
from negfail_nb.logs.jsontext import MAX_DEPTH, Walk, parse, read_whole
from negfail_nb.settings import CollectSettings

CHAT = {
    "messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A"}],
    "reward": 1,
}
LIMIT = 1_000_000
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
    | st.sampled_from(["\\", '"', '\\"', "]", "{", "a,b", "\\u00e9", "\U0001f600"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)
quick = settings(max_examples=60, deadline=None)


def walk(raw: bytes, chunk: int = 65_536, limit: int = LIMIT):
    return list(Walk(io.BytesIO(raw), limit, chunk))


def written(value, indent, ascii_only):
    return json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode(
        "utf-8", "surrogatepass"
    )


@quick
@given(
    items=st.lists(VALUES, max_size=5),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
)
def test_an_array_is_read_as_json_reads_it_whatever_the_window(items, chunk, indent, ascii_only):
    raw = written(items, indent, ascii_only)
    found = walk(b" \n" + raw + b"\n", chunk)
    assert [member.record.value for member in found] == json.loads(raw)
    assert [member.record.where for member in found] == [
        f"item {n}" for n in range(1, len(items) + 1)
    ]
    assert not any(member.record.problem for member in found)


@quick
@given(
    value=st.dictionaries(
        st.text(st.characters(exclude_categories=("Cs",)), max_size=5), VALUES, max_size=5
    ),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 2]),
)
def test_an_object_is_read_as_json_reads_it_whatever_the_window(value, chunk, indent):
    raw = written(value, indent, True)
    found: dict = {}
    for key, listed, record in walk(raw, chunk):
        assert not record.problem
        if listed:
            found.setdefault(key, []).append(record.value)
        else:
            found[key] = record.value
    assert found == json.loads(raw)
    whole = list(read_whole(lambda: io.BytesIO(raw), LIMIT, one=True))
    assert [record.value for record in whole] == [json.loads(raw)]


@quick
@given(value=VALUES)
def test_a_line_is_read_as_json_reads_it(value):
    assert parse(json.dumps(value), "line 1").value == value


@quick
@given(
    items=st.lists(VALUES, min_size=1, max_size=4),
    cut=st.integers(0, 200),
    noise=st.binary(max_size=3),
    chunk=st.integers(1, 30),
    limit=st.integers(1, 60),
)
def test_damaged_text_raises_nothing_and_is_reported(items, cut, noise, chunk, limit):
    raw = json.dumps(items).encode()
    cut = min(cut, len(raw))
    found = walk(raw[:cut] + noise + raw[cut:], chunk, limit)
    try:
        json.loads(raw[:cut] + noise + raw[cut:])
    except ValueError:
        assert found and (found[-1].key is None or any(m.record.problem for m in found))


@quick
@given(
    sizes=st.lists(st.integers(0, 120), min_size=1, max_size=6),
    chunk=st.integers(1, 50),
    limit=st.integers(20, 80),
)
def test_the_limit_is_obeyed_item_by_item(sizes, chunk, limit):
    items = [{"a": ["x" * size, "]"]} for size in sizes]
    found = walk(json.dumps(items).encode(), chunk, limit)
    assert [m.record.value for m in found] == [
        i if len(json.dumps(i)) <= limit else None for i in items
    ]
    assert all(
        ("raise max_record_mb" in m.record.problem) == (m.record.value is None) for m in found
    )


@pytest.mark.parametrize(
    "huge", ['"' + "x" * 300_000 + '"', "[" + "1," * 150_000 + "1]", "9" * 300_000]
)
def test_one_huge_value_is_passed_over_and_what_follows_is_read(tmp_path, huge):
    path = tmp_path / "a.json"
    path.write_text(f"[{json.dumps(CHAT)}, {huge}, {json.dumps(CHAT)}]", encoding="utf-8")
    logs = load_trajectories(path, CollectSettings(max_record_mb=0.2))
    assert (len(logs), [p.record for p in logs.problems]) == (2, ["item 2"])


@pytest.mark.parametrize("begin", ["[", '{"version": 1, "runs": ['])
def test_a_file_far_larger_than_its_limit_is_read_in_a_window(tmp_path, begin):
    path, count = tmp_path / "a.json", 600
    one = json.dumps({**CHAT, "note": "x" * 10_000})
    with path.open("w", encoding="utf-8") as stream:
        stream.write(begin + ", ".join([one] * count) + ("]" if begin == "[" else "]}"))
    log_settings = CollectSettings(max_record_mb=0.1)
    tracemalloc.start()
    try:
        with path.open("rb") as stream:
            assert sum(m.listed for m in Walk(stream, 100_000)) == count
        assert sum(1 for _ in read_whole(lambda: path.open("rb"), 100_000)) == count
        assert tracemalloc.get_traced_memory()[1] < 3_000_000  # of 6 MB
    finally:
        tracemalloc.stop()
    assert len(load_trajectories(path, log_settings)) == count


def test_one_object_over_the_limit_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**CHAT, "note": "x" * 20_000}, indent=1), encoding="utf-8")
    logs = load_trajectories(path, CollectSettings(max_record_mb=0.01, format="openai"))
    assert not len(logs) and "raise max_record_mb (now 0.01)" in logs.problems[0].reason


@pytest.mark.parametrize(
    "deep", ["[" * 100_000 + "]" * 100_000, '{"a":' * 5_000 + "1" + "}" * 5_000]
)
def test_what_is_nested_too_deeply_costs_only_itself(tmp_path, deep):
    for name, text in (
        ("a.json", f"[{json.dumps(CHAT)}, {deep}, {json.dumps(CHAT)}]"),
        ("a.jsonl", f"{json.dumps(CHAT)}\n{deep}\n{json.dumps(CHAT)}\n"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        logs = load_trajectories(tmp_path / name)
        assert (len(logs), [p.reason for p in logs.problems]) == (
            2,
            ["nested too deeply to be a log"],
        )


def test_what_is_read_can_be_written():
    deep = "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)
    assert parse(deep, "1").problem and not parse(deep[2:-2], "1").problem


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            '{"reward": 1, "reward": 0}',
            "the key 'reward' stands twice, with 1 and 0; which one counts?",
        ),
        (
            '{"a": {"b": "x", "b": null}}',
            "the key 'b' stands twice, with 'x' and None; which one counts?",
        ),
        ('{"a": true, "a": 1}', "the key 'a' stands twice, with True and 1; which one counts?"),
        ('{"usage": {"cost": NaN}}', "holds NaN, which is not JSON, in the field 'usage.cost'"),
        ('{"a": [0, -Infinity]}', "holds -Infinity, which is not JSON, in the field 'a[1]'"),
        (
            '{"scores": {"em": 1e999}}',
            "holds 1e999, which is too large for a number, in the field 'scores.em'",
        ),
        ('[{"t": -1e400}]', "holds -1e400, which is too large for a number, in the field '[0].t'"),
    ],
)
def test_what_json_would_pass_in_silence_is_named(text, reason):
    assert parse(text, "line 1").problem == reason
    assert [m.record.problem for m in walk(f"[{text}, 7]".encode())] == [reason, ""]


def test_a_key_that_stands_twice_with_one_value_is_harmless():
    assert parse('{"a": 1, "a": 1, "b": -0.0}', "line 1").value == {"a": 1, "b": -0.0}
