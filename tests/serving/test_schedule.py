"""The schedule by itself: shares are even, nobody starves, order is kept, and there are never too many."""

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from scratchgpt.serving.schedule import QUANTUM, Entry, Move, Request, Schedule


class _Text(Entry):
    def __init__(self, request: Request, number: int, n_tokens: int) -> None:
        super().__init__(request)
        self.number, self.n_tokens, self.n_made = number, n_tokens, 0


class _World:
    """Slots whose texts get a token each at every step."""

    def __init__(self, n_slots: int) -> None:
        self.n_slots, self.schedule = n_slots, Schedule[_Text](n_slots)
        self.slots: list[_Text] = []
        self.requests: list[Request] = []
        self.n_suspended = 0

    def add(self, *n_tokens: int) -> Request:
        request = Request()
        for number, n in enumerate(n_tokens):
            _Text(request, number, n)
        self.schedule.add(request)
        self.requests.append(request)
        return request

    def move(self) -> None:
        """Make all moves, of which there is an end, and check what must hold then."""
        moves: list[Move[_Text]] = []
        while move := self.schedule.next_move():
            moves.append(move)
            assert move.entering not in self.slots
            if move.leaving:
                self.n_suspended += 1
                self.slots.remove(move.leaving)
            self.slots.append(move.entering)
            assert len(self.slots) <= self.n_slots
        assert len(moves) <= 2 * self.n_slots

    def check(self) -> None:
        assert self.schedule.n_running == len(self.slots)
        assert set(self.slots) == {text for request in self.requests for text in request.running}
        waiting = list(self.schedule.waiting())
        assert len(waiting) == self.schedule.n_waiting == sum(len(request.waiting) for request in self.requests)
        assert not waiting or len(self.slots) == self.n_slots
        most = max((len(request.running) for request in self.requests), default=0)
        for request in self.requests:
            assert len(request.running) >= most - 1 or not request.waiting
            texts: list[Entry] = [*request.running, *request.waiting]
            assert texts == sorted(texts, key=lambda text: text.number)  # type: ignore[attr-defined]

    def step(self) -> None:
        for text in list(self.slots):
            text.n_made += 1
            text.n_allowed -= 1
            if text.n_made == text.n_tokens:
                self.remove(text)

    def remove(self, text: _Text) -> None:
        if text in self.slots:
            self.slots.remove(text)
        self.schedule.remove(text)


@given(n_slots=st.integers(1, 5), data=st.data())
def test_whatever_comes_and_goes(n_slots: int, data: st.DataObject) -> None:
    world = _World(n_slots)
    for _ in range(data.draw(st.integers(1, 30))):
        match data.draw(st.sampled_from(["add", "add", "steps", "remove"])):
            case "add":
                world.add(*data.draw(st.lists(st.integers(1, 3 * QUANTUM), min_size=1, max_size=8)))
            case "steps":
                for _ in range(data.draw(st.integers(1, 2 * QUANTUM))):
                    world.step()
                    world.move()
                    world.check()
            case _:
                texts = [*world.slots, *world.schedule.waiting()]
                if texts:
                    world.remove(data.draw(st.sampled_from(texts)))
        world.move()
        world.check()
    n_left = sum(text.n_tokens - text.n_made for text in [*world.slots, *world.schedule.waiting()])
    for _ in range(n_left):  # each step makes a token at least
        world.step()
        world.move()
    assert not world.slots


def test_a_request_that_is_alone_gets_all_slots_and_loses_none() -> None:
    world = _World(4)
    request = world.add(*[100] * 10)
    for _ in range(300):
        world.move()
        assert len(world.slots) == 4 or not request.waiting
        world.step()
    assert not world.slots
    assert not world.n_suspended


def test_as_many_requests_as_slots_lose_none() -> None:
    world = _World(8)
    for _ in range(8):
        world.add(100)
        world.move()
        world.step()
    for _ in range(100):
        world.move()
        world.step()
    assert (world.n_suspended, world.slots) == (0, [])


def test_a_small_request_begins_at_once_next_to_a_large_one() -> None:
    world = _World(16)
    world.add(*[4096] * 128)
    world.move()
    small = world.add(5)
    world.move()
    assert len(small.running) == 1
    assert world.n_suspended == 1


@settings(max_examples=25)
@given(n_slots=st.integers(1, 6), sizes=st.lists(st.integers(1, 7), min_size=1, max_size=12))
def test_slots_are_shared_evenly_over_time(n_slots: int, sizes: list[int]) -> None:
    """Of the largest shares that leave nothing over, each request gets its own within a few turns."""
    world = _World(n_slots)
    for size in sizes:
        world.add(*[10**6] * size)
    n_steps = 10 * QUANTUM * len(sizes)
    for _ in range(n_steps):
        world.move()
        world.step()
    share, shares = n_slots / len(sizes), dict.fromkeys(range(len(sizes)), 0.0)
    left, room = set(shares), float(n_slots)
    while left:  # whoever has fewer texts than an even share leaves the rest to others
        share = room / len(left)
        few = {number for number in left if sizes[number] <= share}
        for number in few or left:
            shares[number] = min(float(sizes[number]), share)
            room -= shares[number]
        left -= few or left
    for number, request in enumerate(world.requests):
        texts: list[Entry] = [*request.running, *request.waiting]
        n_made = sum(text.n_made for text in texts)  # type: ignore[attr-defined]
        assert abs(n_made - shares[number] * n_steps) <= 4 * QUANTUM * n_slots


@settings(max_examples=25)
@given(n_slots=st.integers(1, 6), n_requests=st.integers(1, 40), n_texts=st.integers(1, 3))
def test_nobody_starves(n_slots: int, n_requests: int, n_texts: int) -> None:
    """A turn comes after one turn of each other request at most, even while new ones keep coming."""
    world = _World(n_slots)
    for _ in range(n_requests):
        world.add(*[10**6] * n_texts)
    last = world.add(5)
    n_rounds = math.ceil((n_requests + 1) / n_slots) + 1
    for _ in range(n_rounds * (QUANTUM + 1)):
        if last.running or not last.waiting:
            break
        world.add(3)
        world.move()
        world.step()
    assert last.running or not last.waiting


def test_the_cost_of_a_move_does_not_grow_with_the_queue() -> None:
    """Only requests that have slots are passed over."""
    n_looks = 0

    class Watched(Request):
        def __getattribute__(self, name: str) -> Any:
            nonlocal n_looks
            n_looks += name == "running"
            return super().__getattribute__(name)

    schedule = Schedule[Entry](3)
    for _ in range(500):
        request = Watched()
        texts = [Entry(request), Entry(request)]
        schedule.add(request)
        assert len(texts) == 2
    moves = [schedule.next_move() for _ in range(4)]
    assert moves[3] is None
    for move in moves[:3]:
        assert move
        move.entering.n_allowed = 0
    n_looks = 0
    assert [schedule.next_move() is None for _ in range(4)] == [False, False, False, True]
    assert n_looks <= 60
