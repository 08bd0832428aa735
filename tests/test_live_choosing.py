"""Which of several servers is asked: whatever starts, ends and fails, and in whatever order."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from negfail_nb.agents.choosing import LONGEST_REST, Chooser, Conversation, recognise
from negfail_nb.agents.protocol import Sampling

GREEDY = Sampling(temperature=0.0, max_tokens=9, seed=0)


def new(number):
    return Conversation(number)


def chosen(chooser, count, **known):
    """Start so many conversations, and return where each went."""
    return [chooser.start(Conversation(n, **known)).place for n in range(count)]


class Choosing(RuleBasedStateMachine):
    """A clock that is moved by hand, and servers that fail whenever they are told to."""

    requests = Bundle("requests")

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.chooser = Chooser(3, rest=1.0, clock=lambda: self.now)
        self.under_way = Counter()
        self.trials = Counter()
        self.number = 0

    def loads(self):
        return [state.busy for state in self.chooser.states]

    def start(self, earlier=None):
        """Start a request; return it with its number, or nothing if all servers rest."""
        self.number += 1
        asked = self.chooser.start(Conversation(self.number, earlier=earlier, beginning=-1))
        if asked is None:
            return None
        state = self.chooser.states[asked.place]
        assert not state.failures or self.now >= state.until, "none goes to a server that rests"
        self.under_way[asked.place] += 1
        self.trials[asked.place] += asked.trial
        return asked, self.number

    @rule(target=requests)
    def begin(self):
        before, free = self.loads(), self.chooser.free()
        made = self.start()
        assert (made is None) == (not free)
        if made is None:
            return multiple()
        # So loads of those that may be asked differ by one at most, as far as a start decides it.
        assert before[made[0].place] == min(before[place] for place in free)
        return made

    @rule(target=requests, request=requests)
    def go_on(self, request):
        free = self.chooser.free()
        made = self.start(earlier=request[1])
        if made is None:
            return multiple()
        assert made[0].place == request[0].place or request[0].place not in free
        return made

    @rule(request=consumes(requests), how=st.sampled_from(["works", "fails", "cancelled"]))
    def end(self, request, how):
        asked = request[0]
        if how == "works":
            self.chooser.works(asked)
        if how == "fails":
            self.chooser.fails(asked, "broken")
        self.chooser.end(asked)
        self.under_way[asked.place] -= 1
        self.trials[asked.place] -= asked.trial

    @rule(seconds=st.sampled_from([0.4, 1.0, 3.0, LONGEST_REST]))
    def pass_time(self, seconds):
        self.now += seconds

    @invariant()
    def counts_are_those_of_the_requests_under_way(self):
        assert self.loads() == [self.under_way[place] for place in range(3)]
        assert min(self.loads()) >= 0
        assert max(self.trials.values(), default=0) <= 1, "one request tries a server again"

    @invariant()
    def somebody_is_free_or_becomes_so(self):
        if not self.chooser.free():
            assert 0 <= self.chooser.wait() <= LONGEST_REST


TestChoosing = Choosing.TestCase
TestChoosing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("servers", [2, 3, 5])
def test_new_conversations_are_shared_equally(servers):
    loads = Counter(chosen(Chooser(servers), 31))
    assert max(loads.values()) - min(loads.values()) <= 1 and len(loads) == servers


def test_a_conversation_stays_and_another_seed_of_it_is_another():
    chooser = Chooser(2)
    asked = [{"role": "system", "content": "Act."}, {"role": "user", "content": "What is 7?"}]
    other = Sampling(temperature=0.0, max_tokens=9, seed=1)
    first = chooser.start(recognise(asked, GREEDY))
    second = chooser.start(recognise(asked, other))
    assert {first.place, second.place} == {0, 1}
    for _ in range(3):
        asked += [{"role": "assistant", "content": "so"}, {"role": "user", "content": "#1"}]
        assert chooser.start(recognise(asked, GREEDY)).place == first.place
        assert chooser.start(recognise(asked, other)).place == second.place


def test_what_begins_alike_goes_to_one_server_where_that_does_not_unbalance():
    long = "The passages are these. " * 400
    chooser = Chooser(3)
    places = []
    for number in range(6):
        asked = [{"role": "user", "content": f"{long} Question {number}?"}]
        request = chooser.start(recognise(asked, GREEDY))
        places.append(request.place)
        chooser.end(request)
    assert len(set(places)) == 1, "one after the other"
    at_once = [
        chooser.start(recognise([{"role": "user", "content": f"{long} {n}"}], GREEDY)).place
        for n in range(6)
    ]
    assert sorted(Counter(at_once).values()) == [2, 2, 2]


def test_rests_grow_and_end_with_the_first_answer():
    now = [0.0]
    chooser = Chooser(1, rest=1.0, clock=lambda: now[0])
    rests = []
    for number in range(9):
        request = chooser.start(new(number))
        assert chooser.fails(request, "refused")
        chooser.end(request)
        assert chooser.start(new(99)) is None
        rests.append(chooser.wait())
        now[0] += rests[-1]
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    request = chooser.start(new(10))
    assert request.trial and chooser.start(new(11)) is None, "one request tries it"
    chooser.works(request)
    assert chooser.start(new(12)) is not None


def test_what_was_under_way_when_a_server_failed_does_not_make_it_rest_longer():
    now = [0.0]
    chooser = Chooser(1, rest=1.0, clock=lambda: now[0])
    requests = [chooser.start(new(n)) for n in range(20)]
    assert [chooser.fails(request, "gone") for request in requests] == [True] + [False] * 19
    assert chooser.wait() == 1.0
