"""How questions are worded. In every table the last wording of each is the held-out one; see
`of_split`.
"""

from __future__ import annotations

from collections.abc import Sequence

# How a question asks for the value of a relation, and how it speaks of that value on the way to
# another one.
ASK = {
    "capital": (
        "What is the capital of {x}?",
        "Which city is the capital of {x}?",
        "Which is the capital of {x}?",
        "Which city does {x} have as its capital?",
        "What is {x}'s capital?",
        "What is the name of the capital of {x}?",
    ),
    "currency": (
        "Which currency is used in {x}?",
        "With what do people pay in {x}?",
        "What is the money of {x}?",
        "What currency does {x} have?",
        "Which is the currency of {x}?",
        "What is the currency of {x}?",
    ),
    "founded": (
        "In which year was {x} founded?",
        "When was {x} founded?",
        "What year was {x} founded in?",
        "What is the year in which {x} was founded?",
        "Since which year does {x} exist?",
        "What is the founding year of {x}?",
    ),
    "population": (
        "How many people live in {x}?",
        "What is the population of {x}?",
        "How large is the population of {x}?",
        "How many inhabitants are there in {x}?",
        "What number of people live in {x}?",
        "How many inhabitants does {x} have?",
    ),
    "country": (
        "In which country is {x}?",
        "To which country does {x} belong?",
        "Which country is {x} in?",
        "What country does {x} belong to?",
        "Where does {x} lie, in which country?",
        "In which country does {x} lie?",
    ),
    "river": (
        "Which river runs through {x}?",
        "What is the name of the river in {x}?",
        "What river does {x} lie on?",
        "Which river is in {x}?",
        "What is the river that runs through {x}?",
        "On which river does {x} lie?",
    ),
    "occupation": (
        "What was the profession of {x}?",
        "What did {x} do for a living?",
        "What was {x}'s occupation?",
        "Which profession did {x} have?",
        "What was {x} by profession?",
        "What was the occupation of {x}?",
    ),
    "birthplace": (
        "In which city was {x} born?",
        "Where was {x} born?",
        "What is the birthplace of {x}?",
        "What city was {x} born in?",
        "Which city was {x} born in?",
        "Which city is the birthplace of {x}?",
    ),
    "employer": (
        "Which firm employed {x}?",
        "For which firm did {x} work?",
        "Who employed {x}?",
        "Who was the employer of {x}?",
        "What firm did {x} work for?",
        "Which firm was the employer of {x}?",
    ),
    "born": (
        "In which year was {x} born?",
        "When was {x} born?",
        "What year was {x} born in?",
        "What is the birth year of {x}?",
        "Which year is the year of birth of {x}?",
        "What is the year of birth of {x}?",
    ),
    "headquarters": (
        "In which city are the headquarters of {x}?",
        "From which city is {x} run?",
        "Where is the head office of {x}?",
        "What city has the headquarters of {x}?",
        "Where are the headquarters of {x}?",
        "Which city has the head office of {x}?",
    ),
    "founder": (
        "Who founded {x}?",
        "By whom was {x} founded?",
        "Who is the founder of {x}?",
        "Who started {x}?",
        "What is the name of the founder of {x}?",
        "Who was the founder of {x}?",
    ),
    "employees": (
        "How many employees does {x} have?",
        "How many people does {x} employ?",
        "What number of employees does {x} have?",
        "How many people work at {x}?",
        "How many employees work for {x}?",
        "How many people work for {x}?",
    ),
    "genre": (
        "To which genre does {x} belong?",
        "Of which genre is {x}?",
        "What genre is {x}?",
        "What is {x}'s genre?",
        "Which is the genre of {x}?",
        "What is the genre of {x}?",
    ),
    "author": (
        "Who wrote {x}?",
        "By whom was {x} written?",
        "Who was the author of {x}?",
        "What is the name of the author of {x}?",
        "Who is it that wrote {x}?",
        "Who is the author of {x}?",
    ),
    "publisher": (
        "Who published {x}?",
        "Which firm was the publisher of {x}?",
        "What is the publisher of {x}?",
        "What firm published {x}?",
        "By which firm was {x} published?",
        "Which firm published {x}?",
    ),
    "published": (
        "In which year was {x} published?",
        "When did {x} first appear?",
        "What year was {x} published in?",
        "When did {x} get published?",
        "What is the year of publication of {x}?",
        "When was {x} published?",
    ),
    "length": (
        "How many minutes long is {x}?",
        "For how many minutes does {x} run?",
        "How many minutes is the length of {x}?",
        "How long is {x}?",
        "What is the length of {x} in minutes?",
        "How long is {x}, in minutes?",
    ),
    "director": (
        "Who directed {x}?",
        "By whom was {x} directed?",
        "Who is the director of {x}?",
        "What is the name of the director of {x}?",
        "Who was it that directed {x}?",
        "Who was the director of {x}?",
    ),
    "studio": (
        "Which studio made {x}?",
        "By which studio was {x} made?",
        "What studio produced {x}?",
        "What is the studio of {x}?",
        "By which studio was {x} produced?",
        "Which studio produced {x}?",
    ),
    "released": (
        "In which year was {x} released?",
        "When did {x} come to the cinemas?",
        "What year was {x} released in?",
        "When did {x} get released?",
        "What is the year of release of {x}?",
        "When was {x} released?",
    ),
    "sport": (
        "Which sport does {x} play?",
        "What is the sport of {x}?",
        "What sport does {x} compete in?",
        "What sport does {x} play?",
        "Which is the sport of {x}?",
        "In which sport does {x} compete?",
    ),
    "home": (
        "In which city does {x} play its home games?",
        "Which city is the home of {x}?",
        "What city is home to {x}?",
        "Where is the home of {x}?",
        "Which city is the home city of {x}?",
        "What is the home city of {x}?",
    ),
    "coach": (
        "Who coaches {x}?",
        "By whom is {x} coached?",
        "Who was the coach of {x}?",
        "What is the name of the coach of {x}?",
        "Who is it that coaches {x}?",
        "Who is the coach of {x}?",
    ),
}
THE = {
    "capital": (
        "the capital of {x}",
        "the city that is the capital of {x}",
        "the capital city of {x}",
    ),
    "country": (
        "the country of {x}",
        "the country that has {x} among its cities",
        "the country to which {x} belongs",
    ),
    "birthplace": (
        "the city where {x} was born",
        "the birthplace of {x}",
        "the city in which {x} was born",
    ),
    "employer": (
        "the firm that employed {x}",
        "the employer of {x}",
        "the firm for which {x} worked",
    ),
    "headquarters": (
        "the city with the head office of {x}",
        "the city from which {x} is run",
        "the city with the headquarters of {x}",
    ),
    "founder": ("the founder of {x}", "the person who started {x}", "the person who founded {x}"),
    "author": ("the author of {x}", "the writer of {x}", "the person who wrote {x}"),
    "publisher": ("the publisher of {x}", "the firm behind {x}", "the firm that published {x}"),
    "director": ("the director of {x}", "the one who directed {x}", "the person who directed {x}"),
    "studio": ("the studio that made {x}", "the studio behind {x}", "the studio that produced {x}"),
    "home": (
        "the home city of {x}",
        "the city where {x} plays its home games",
        "the city that is the home of {x}",
    ),
    "coach": ("the coach of {x}", "the one who coaches {x}", "the person who coaches {x}"),
}
# Keys: kind and relation; {a} and {b} are the two that are compared.
COMPARE = {
    ("person", "born"): (
        "Who was born earlier, {a} or {b}?",
        "Who is older, {a} or {b}?",
        "Who was born first, {a} or {b}?",
    ),
    ("book", "published"): (
        "Which was published earlier, {a} or {b}?",
        "Which is the older one, {a} or {b}?",
        "Which was published first, {a} or {b}?",
    ),
    ("film", "released"): (
        "Which was released earlier, {a} or {b}?",
        "Which came out first, {a} or {b}?",
        "Which was released first, {a} or {b}?",
    ),
    ("firm", "founded"): (
        "Which firm was founded earlier, {a} or {b}?",
        "Which firm is older, {a} or {b}?",
        "Which firm was founded first, {a} or {b}?",
    ),
    ("city", "population"): (
        "Which city has more inhabitants, {a} or {b}?",
        "Which city has the larger population, {a} or {b}?",
        "In which city do more people live, {a} or {b}?",
    ),
    ("country", "population"): (
        "Which country has more inhabitants, {a} or {b}?",
        "Where do more people live, {a} or {b}?",
        "Which country has the larger population, {a} or {b}?",
    ),
}
SAME = {
    ("person", "birthplace"): (
        "Were {a} and {b} born in the same city?",
        "Do {a} and {b} share a birthplace?",
        "Do {a} and {b} have the same birthplace?",
    ),
    ("book", "genre"): (
        "Do {a} and {b} belong to the same genre?",
        "Do {a} and {b} share a genre?",
        "Are {a} and {b} of the same genre?",
    ),
    ("film", "studio"): (
        "Were {a} and {b} made by the same studio?",
        "Did one studio make both {a} and {b}?",
        "Did the same studio make {a} and {b}?",
    ),
    ("firm", "headquarters"): (
        "Are {a} and {b} run from the same city?",
        "Do {a} and {b} have their headquarters in one city?",
        "Are the headquarters of {a} and {b} in the same city?",
    ),
    ("city", "country"): (
        "Are {a} and {b} in the same country?",
        "Do {a} and {b} belong to one country?",
        "Do {a} and {b} lie in the same country?",
    ),
    ("team", "sport"): (
        "Do {a} and {b} play the same sport?",
        "Is the sport of {a} the same as that of {b}?",
        "Do {a} and {b} compete in the same sport?",
    ),
}


def of_split(wordings: Sequence[str], split: str) -> Sequence[str]:
    """Return the wordings that a split uses: the last one where it is ``"heldout"``, the others for
    ``"train"``.
    """
    return {"": wordings, "train": wordings[:-1], "heldout": wordings[-1:]}[split]
