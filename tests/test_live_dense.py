"""Attention over places of their own gives what attention over the pages gives, however requests come and go."""

import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from negfail_nb.collect.dense import FEW, SHORTEST, DenseCache, Row
from negfail_nb.collect.engine import DENSE, paged_sdpa

HEADS, SIZE, LAYERS = 2, 4, 2


class Pages:
    """What the attention sees of an engine's cache: rows of keys and values in each layer, in any order."""

    index, layer_type = 0, "full"

    def __init__(self, rows=6000):
        self.kept = torch.full((LAYERS, 2, rows, HEADS, SIZE), torch.nan)
        self.free = torch.randperm(rows).tolist()
        self.layer_to_allocator = [self] * LAYERS

    def update(self, key, value, layer, read, write):
        self.kept[layer][:, write] = torch.stack([key, value])
        return self.kept[layer, 0, read], self.kept[layer, 1, read]


def step(pages, requests, asked, groups):
    """Let requests ask for so many tokens each; return the attention of every layer, and what it should be."""
    for number, count in asked:
        requests.setdefault(number, []).extend(pages.free.pop() for _ in range(count))
    rows = [torch.tensor(requests[number]) for number, _ in asked]
    total = sum(count for _, count in asked)
    ends = torch.tensor([0, *(count for _, count in asked)]).cumsum(0)
    found, wanted = [], []
    for layer in range(LAYERS):
        query = torch.randn(1, HEADS * groups, total, SIZE)
        key, value = torch.randn(2, 1, HEADS, total, SIZE)
        out, _ = paged_sdpa(
            types.SimpleNamespace(layer_idx=layer),
            *(query, key, value, None),
            scaling=0.5,
            cache=pages,
            cu_seq_lens_q=ends,
            cu_seq_lens_k={"full": torch.tensor([0, *map(len, rows)]).cumsum(0)},
            read_index=[torch.cat(rows)],
            write_index=[torch.cat([r[-count:] for r, (_, count) in zip(rows, asked, strict=True)])],
        )
        found.append(out)
        for r, a, b in zip(rows, ends, ends[1:], strict=False):
            keys, values = (pages.kept[layer, i, r].repeat_interleave(groups, 1).transpose(0, 1) for i in (0, 1))
            scores = 0.5 * query[0, :, a:b] @ keys.transpose(1, 2)
            hidden = torch.ones(scores.shape[1:], dtype=torch.bool).tril(scores.shape[2] - scores.shape[1])
            wanted.append((scores.masked_fill(~hidden, -torch.inf).softmax(-1) @ values).transpose(0, 1))
    return torch.cat(found).reshape(-1, HEADS * groups, SIZE), torch.cat(wanted)


@settings(deadline=None)
@given(st.data(), st.sampled_from([1, 3]), st.sampled_from([0, FEW * SHORTEST, 10**6]))
def test_requests_that_come_grow_pause_and_go_get_the_attention_of_their_own_tokens(data, groups, limit):
    torch.manual_seed(data.draw(st.integers(0, 99)))
    pages, requests, new = Pages(), {}, 0
    setattr(pages, DENSE, DenseCache(limit))
    for _ in range(data.draw(st.integers(1, 8))):
        for number in list(requests):
            if data.draw(st.booleans(), label=f"{number} ends"):
                pages.free.extend(requests.pop(number))  # taken again by the next
        going = [n for n in requests if data.draw(st.integers(0, 3), label=f"{n} is asked")]
        asked = [(n, 1) for n in going]
        for _ in range(data.draw(st.integers(0, 3))):
            new += 1
            asked.append((new, data.draw(st.sampled_from([1, 2, 30, SHORTEST - 1, SHORTEST]))))
        asked = data.draw(st.permutations(asked))
        if asked:
            found, wanted = step(pages, requests, asked, groups)
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_request_is_read_from_the_pages_once_and_moves_when_it_has_outgrown_its_place():
    pages, requests = Pages(), {}
    setattr(pages, DENSE, DenseCache(10**6))
    step(pages, requests, [(1, SHORTEST - 4), (2, 9)], 1)
    reads = []
    for _ in range(8):
        read, pages.update = [], Pages.update.__get__(pages)
        counted = pages.update
        pages.update = lambda k, v, layer, r, w, counted=counted, read=read: (
            read.append(len(r)) if len(r) else None,
            counted(k, v, layer, r, w),
        )[1]
        found, wanted = step(pages, requests, [(1, 1), (2, 1)], 1)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        reads.append(read)
    first, moved = [SHORTEST - 3, 10] * LAYERS, [SHORTEST + 1] * LAYERS
    assert reads == [first, [], [], [], moved, [], [], []]


def test_a_reply_that_broke_spoils_no_other_in_its_place():
    pages, requests = Pages(), {}
    setattr(pages, DENSE, DenseCache(10**6))
    step(pages, requests, [(1, 40)], 1)
    step(pages, requests, [(1, 1)], 1)
    for keys, values in pages.negfail_dense._shelves[SHORTEST].layers.values():
        keys[:, :, 20:41] = values[:, :, 20:41] = torch.nan
    step(pages, requests, [(2, 9), (3, 60)], 1)
    found, wanted = step(pages, requests, [(2, 1), (3, 1)], 1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_places_are_used_again_and_never_more_than_allowed():
    dense = DenseCache(2 * FEW * SHORTEST)
    rows = [Row(n, n, torch.tensor([5000 + n, n])) for n in range(20)]
    dense.begin(rows)
    assert len(dense.placed) == 2 * FEW
    dense.begin([])
    assert not dense.placed
    dense.begin(rows[4:])
    assert len(dense.placed) == 2 * FEW


def test_lengths_that_nobody_asks_for_any_more_make_room_for_others():
    dense = DenseCache(FEW * SHORTEST)
    short, long = Row(0, 0, torch.arange(9)), Row(1, 1, torch.arange(100, 100 + SHORTEST))
    dense.begin([short, long])
    assert dense.placed == {0}
    dense.begin([long])
    assert dense.placed == {1}


def test_the_last_of_many_do_not_pay_for_the_places_of_those_that_are_done():
    dense = DenseCache(10**6)
    dense.begin([Row(n, n, torch.tensor([5000 + n, n])) for n in range(20)])
    (group, mask), *_ = dense._step
    assert mask.shape[0] == 20
    dense.begin([Row(0, 0, torch.tensor([5019, 19, 100]))])
    (group, mask), *_ = dense._step
    assert mask.shape[0] == 1 and [slot for slot, _ in group.unread] == [0]


@pytest.mark.parametrize("name", ["softcap", "position_bias", "s_aux"])
def test_what_the_attention_does_not_know_is_refused(name):
    with pytest.raises(ValueError, match="no softcap"):
        paged_sdpa(
            None,
            None,
            None,
            None,
            None,
            **dict.fromkeys(("scaling", "cache", "cu_seq_lens_q"), None),
            cu_seq_lens_k={},
            read_index=[],
            write_index=[],
            **{name: 1},
        )
