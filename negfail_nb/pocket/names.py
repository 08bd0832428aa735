"""Invented names: of people and places, of books and films.

A name is a function of what it is for, a number, the seed and the split only. The two splits share
no name.
"""

from __future__ import annotations

# A world of one split shares no name with any world of the other, whatever their seeds and sizes;
# "" is not split.
SPLITS = ("", "train", "heldout")

_FIRMS = ("Press", "Pictures", "Works")  # publishers, studios, and the rest, in turn
_TEAMS = ("Hawks", "Lynxes", "Rovers", "Herons", "Stags", "Wolves")
_ADJECTIVES = (
    "Silent Crooked Golden Hidden Burning Last Pale Broken Winter Distant Hollow Scarlet Sleeping "
    "Wandering Northern Lost Quiet Bitter Glass Iron Borrowed Drowned Second Empty"
).split()
_NOUNS = (
    "Harbour Orchard Lantern River Garden Letter Bridge Tower Mirror Forest Island Clock Voyage "
    "Window Meadow Kingdom Station Summer Door Song Field Candle Road Shore Crown"
).split()

# Some are left out because they make rude words.
_SYLLABLES = [
    c + v for c in "bdfgklmnprstvz" for v in "aeiou" if c + v not in "di fa fu ku ni pe pi pu"
]
# Every ending begins with a consonant that no vowel follows, so that names of different lengths
# never coincide.
_ENDINGS = "n r l s m x th nd rk lm st sk rn ld nna lla rra sko ndo rva ska nta lde mbo".split()
_WORDS_FOR = "country city person firm book film team first river currency".split()
_ROLES = {role: code for code, role in enumerate(_WORDS_FOR)}
# A prime that divides no number of names, so that n * _SPREAD runs through all of them.
_SPREAD = 15_485_863
_FIRST_NAMES = 61


def make_name(kind: str, number: int, seed: int, split: str) -> str:
    """Return what the entity of that kind and number is called; namesakes get the same name."""
    if kind in ("person", "city") and number % 8 == 7:
        number -= 1
    if kind == "person":  # families of three, whose first names differ
        first = make_word("first", (number * 17 + seed) % _FIRST_NAMES, seed, split)
        return f"{first} {make_word(kind, number // 3, seed, split)}"
    if kind in ("book", "film"):
        return _work(number if kind == "book" or number % 4 == 3 else -number - 1, seed, split)
    word = make_word(kind, number, seed, split)
    if kind == "country":
        return word if word[-1] in "aeo" else word + "ia"
    if kind == "city":
        return f"{('Port', 'New', 'Upper')[number // 3 % 3]} {word}" if number % 3 == 2 else word
    return f"{word} {(_FIRMS if kind == 'firm' else _TEAMS)[number % (3 if kind == 'firm' else 6)]}"


def _work(number: int, seed: int, split: str) -> str:
    """Name a book (even codes) or a film (odd codes): two words, and a third when the pairs are
    used up.
    """
    code = 2 * number if number >= 0 else -2 * number - 1
    share = 2 if split else 1
    pairs = len(_ADJECTIVES) * len(_NOUNS) // share
    again, code = divmod(code, pairs)
    adjective, noun = divmod((code * _SPREAD + seed * 7919) % pairs, len(_NOUNS))
    name = f"The {_ADJECTIVES[_of_half(adjective, noun, split)]} {_NOUNS[noun]}"
    return f"{name} of {make_word('book', again, seed, split)}" if again else name


def make_word(role: str, number: int, seed: int, split: str) -> str:
    """Return an invented word for a kind, or for a ``first`` name, a ``river`` or a ``currency``.

    Under one seed and split no two are equal, whatever they are for.
    """
    base = len(_SYLLABLES)
    endings = len(_ENDINGS) // (2 if split else 1)
    code = number * len(_ROLES) + _ROLES[role]
    syllables = 2
    space = base * base * endings
    while code >= space:
        code = code - space
        space = space * base
        syllables = syllables + 1
    code, ending = divmod((code * _SPREAD + seed * 104_729) % space, endings)
    word = ""
    total = 0
    for _ in range(syllables):
        code, syllable = divmod(code, base)
        word = _SYLLABLES[syllable] + word
        total = total + syllable
    return (word + _ENDINGS[_of_half(ending, total, split)]).capitalize()


def _of_half(number: int, rest: int, split: str) -> int:
    """Return the index of the last part of a name, so that the sum of all its parts is even in
    "train" only.
    """
    return 2 * number + (rest + SPLITS.index(split) + 1) % 2 if split else number
