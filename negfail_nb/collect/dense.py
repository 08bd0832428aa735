"""Keys and values of the replies under way, each in one piece, beside the paged cache of transformers' engine.

The rows of a request lie all over the pages, and on a CPU to gather them anew for each token takes longer than all else
in a forward pass. Here a request's rows are gathered once, when its first token is asked for; then each token adds one
row, and all requests of about a length are one call of PyTorch's attention.

The engine does not say which request is which. A request is known by the page row of its last token, which no other
request has while it runs; what is not seen in a step is forgotten.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.functional import scaled_dot_product_attention

SHORTEST = 256  # tokens of a place on the lowest shelf; each further one has twice as many
FEW = 8  # places of the lowest shelf when it is new; a higher one begins with as many tokens, or one place

Read = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Row:
    """A request that asks for one token: its number in the batch, the token's number, and its rows in the pages."""

    request: int
    token: int
    rows: torch.Tensor


@dataclass(slots=True)
class _Place:
    """Where a request is kept, and how much of it."""

    shelf: _Shelf
    slot: int
    length: int


@dataclass(slots=True)
class _Shelf:
    """Places of one size: for each layer keys and values of shape ``(places, heads, size, head size)``."""

    size: int
    places: int = 0
    free: list[int] = field(default_factory=list)
    layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    @property
    def next(self) -> int:
        """How many places are added at once: as many as there are."""
        return self.places or max(1, FEW * SHORTEST // self.size)

    def grow(self) -> None:
        """Add places."""
        places = self.places + self.next
        self.free += range(self.places, places)
        self.places = places

    def layer(self, number: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of a layer; ``like`` has the heads and their size last."""
        old = self.layers.get(number)
        if old is None or len(old[0]) < self.places:
            missing = self.places - (0 if old is None else len(old[0]))
            # Zeros, as what is masked must be finite all the same.
            new = [like.new_zeros(missing, like.shape[-2], self.size, like.shape[-1]) for _ in range(2)]
            self.layers[number] = tuple(new if old is None else map(torch.cat, zip(old, new, strict=True)))
        return self.layers[number]


@dataclass(slots=True)
class _Group:
    """The requests of a step on one shelf."""

    shelf: _Shelf
    slots: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    unread: list[tuple[int, torch.Tensor]] = field(default_factory=list)  # slots, and the rows to be read into them

    def add(self, place: _Place, row: Row, fresh: bool) -> None:
        """Take a request that is kept in a place."""
        self.slots.append(place.slot)
        self.tokens.append(row.token)
        self.lengths.append(place.length)
        if fresh:
            self.unread.append((place.slot, row.rows))

    def mask(self) -> torch.Tensor:
        """Return what each place sees, of shape ``(places, 1, 1, tokens)``; unused ones see a token: none gives NaN."""
        seen = torch.ones(max(self.slots) + 1, dtype=torch.long)
        seen[self.slots] = torch.tensor(self.lengths)
        return (torch.arange(max(self.lengths)) < seen[:, None])[:, None, None]


class DenseCache:
    """Attention for requests that ask for one token each.

    Parameters
    ----------
    limit
        Tokens that all places may hold together. Requests without a place are for the caller to attend to.

    Attributes
    ----------
    placed
        Numbers of the requests of this step that have a place.
    """

    def __init__(self, limit: int) -> None:
        self.placed: set[int] = set()
        self._limit = limit
        self._shelves: dict[int, _Shelf] = {}
        self._known: dict[int, _Place] = {}
        self._step: list[tuple[_Group, torch.Tensor]] = []

    def begin(self, asked: Sequence[Row]) -> None:
        """Begin a step, before its first layer. What was known and is not asked for is forgotten.

        Parameters
        ----------
        asked
            All requests that ask for one token and have earlier ones.
        """
        ends = torch.stack([row.rows[-2:] for row in asked]).tolist() if asked else []
        going = [self._continued(row, before) for row, (before, _) in zip(asked, ends, strict=True)]
        self._forget_others(going)
        groups: dict[int, _Group] = {}
        self.placed = set()
        for row, (_, last), old in zip(asked, ends, going, strict=True):
            place = old or self._take(len(row.rows))
            if place is not None:
                place.length = len(row.rows)
                self._known[last] = place
                groups.setdefault(place.shelf.size, _Group(place.shelf)).add(place, row, fresh=old is None)
                self.placed.add(row.request)
        self._step = [(group, group.mask()) for group in groups.values()]

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        new: tuple[torch.Tensor, torch.Tensor],
        read: Read,
        scaling: float,
        out: torch.Tensor,
    ) -> None:
        """Attend in one layer for the requests of this step that have a place.

        Parameters
        ----------
        layer
            Its number.
        query
            Shape ``(1, heads, tokens, head size)``, of all requests.
        new
            Keys and values of the same tokens, shape ``(tokens, key heads, head size)``.
        read
            From rows to their keys and values in the pages, of the same layout; the new ones are in them already.
        scaling
            Of the scores.
        out
            Shape of the query; the outputs are written into it.
        """
        for group, mask in self._step:
            keys, values = group.shelf.layer(layer, new[0])
            for slot, rows in group.unread:
                for kept, found in zip((keys, values), read(rows), strict=True):
                    kept[slot, :, : len(rows)] = found.transpose(0, 1)
                    kept[slot, :, len(rows) :] = 0  # what is masked must be finite all the same
            slots, tokens = torch.tensor(group.slots), torch.tensor(group.tokens)
            at = torch.tensor(group.lengths) - 1
            keys[slots, :, at], values[slots, :, at] = new[0][tokens], new[1][tokens]
            places, longest = mask.shape[0], mask.shape[3]
            # The query heads of one key head become its rows, so that no key is copied.
            packed = query.new_zeros(places, keys.shape[1], query.shape[1] // keys.shape[1], query.shape[3])
            packed[slots] = query[0][:, tokens].transpose(0, 1).reshape(len(slots), *packed.shape[1:])
            seen = keys[:places, :, :longest], values[:places, :, :longest]
            found = scaled_dot_product_attention(packed, *seen, attn_mask=mask, scale=scaling)
            out[0][:, tokens] = found[slots].reshape(len(slots), out.shape[1], out.shape[3]).transpose(0, 1)

    def _continued(self, row: Row, before: int) -> _Place | None:
        """Return the place of a request that has one token more than in the step before, if there is room for it."""
        place, length = self._known.get(before), len(row.rows)
        return place if place and place.length + 1 == length <= place.shelf.size else None

    def _forget_others(self, going: list[_Place | None]) -> None:
        """Free all other places, and also those of shelves with so few requests that most of a call would be waste."""
        by_shelf: dict[int, list[int]] = {}
        for place in filter(None, going):
            by_shelf.setdefault(place.shelf.size, []).append(place.slot)
        sparse = {size for size, slots in by_shelf.items() if max(slots) >= 2 * len(slots) + FEW}
        going[:] = [None if place and place.shelf.size in sparse else place for place in going]
        kept = {id(place) for place in going}
        for place in self._known.values():
            if id(place) not in kept:
                heapq.heappush(place.shelf.free, place.slot)
        self._known = {}

    def _take(self, length: int) -> _Place | None:
        """Return the lowest free place with room for more; ``None`` where another one would go over the limit."""
        size = SHORTEST
        while size <= length:
            size *= 2
        shelf = self._shelves.setdefault(size, _Shelf(size))
        if not shelf.free:
            if not self._has_room(shelf):  # lengths that nobody asks for any more make room
                self._shelves = {s.size: s for s in self._shelves.values() if len(s.free) < s.places or s is shelf}
            if not self._has_room(shelf):
                return None
            shelf.grow()
        return _Place(shelf, heapq.heappop(shelf.free), length)

    def _has_room(self, shelf: _Shelf) -> bool:
        held = sum(s.size * s.places for s in self._shelves.values())
        return held + shelf.size * shelf.next <= self._limit
