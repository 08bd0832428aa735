"""Towns with mayors, questions about them and scripted readers: what tests of arms, scores and
grids share.
"""

import asyncio
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from negfail_nb.agents import ScriptedModel
from negfail_nb.benchmarking.arms import play_arm
from negfail_nb.benchmarking.pools import MemoryPool
from negfail_nb.benchmarking.prompts import open_prompt
from negfail_nb.benchmarking.question_run import Setup
from negfail_nb.benchmarking.records import Passage, Question
from negfail_nb.settings import EvaluateSettings, ReadingSettings, RetrievalSettings
from negfail_nb.steps import text

CITIES = ("Oslo", "Rome", "Lima", "Bern", "Kyiv", "Doha", "Riga", "Male")
PASSAGES = [
    *(
        Passage(f"Mayor of {c}", (f"The mayor of {c} is Ms {c}son.", " She was elected."))
        for c in CITIES
    ),
    *(
        Passage(f"Ms {c}son", (f"Ms {c}son was born in {1900 + n}.", " She sings."))
        for n, c in enumerate(CITIES)
    ),
    *(Passage(f"Notes {n}", (f"Nothing of note happened in the year {n}.",)) for n in range(30)),
]
POOL = MemoryPool(PASSAGES)
QUESTIONS = [
    Question(
        id=f"q{n}",
        question=f"When was the mayor of {city} born?",
        answer=str(1900 + n),
        type="bridge",
        facts=((f"Mayor of {city}", 0), (f"Ms {city}son", 0)),
    )
    for n, city in enumerate(CITIES)
]
FAST = EvaluateSettings(resamples=100)
SMALL = ReadingSettings(passages=2, total=5, steps=3)


class Words:
    """An index that counts shared words, in Python."""

    def __init__(self, content="one", method="linked"):
        self.content, self.settings = content, RetrievalSettings(method=method)

    def search(self, queries, k):
        assert 1 <= k <= len(POOL) and all(query.strip() for query in queries)
        return SimpleNamespace(numbers=np.array([self._best(query)[:k] for query in queries]))

    def _best(self, query):
        words = set(re.findall(r"\w+", query.lower()))
        shared = [
            len(words & set(re.findall(r"\w+", f"{p.title} {p.text}".lower()))) for p in PASSAGES
        ]
        return np.argsort(-np.array(shared), kind="stable")


def play(arm, script, settings=SMALL, question=QUESTIONS[0], context=None, **more):
    model = script if hasattr(script, "reply") else ScriptedModel(script)
    setup = Setup(
        model=model, pool=POOL, prompt=open_prompt(settings.prompt), settings=settings, **more
    )
    return asyncio.run(play_arm(replace(setup, index=Words()), arm, question, context))


def shown_titles(content):
    return re.findall(r"^(.+) \[\d+]: ", content, re.MULTILINE)


def answer_well(messages, sampling):
    """Answer where the year stands in the prompt, search for the mayor where that is offered, else
    give up.
    """
    said = "\n".join(text(m) for m in messages if m["role"] == "user")
    if "Thought, Action" in text(messages[0]):
        said = text(messages[1])
    city = re.search(r"mayor of (\w+) born", said)[1]
    if year := re.search(rf"^(.* \[(\d+)]: )?Ms {city}son was born in (\d+)", said, re.MULTILINE):
        return f"So it is.\nAnswer: {year[3]}\nSources: [{year[2]}]"
    return f"Search: Ms {city}son" if "Search:" in text(messages[-1]) else "Answer: unknown"
