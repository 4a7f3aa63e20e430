"""Which text gets a slot next: each request its even share, by turns. Only bookkeeping: no model, clock or thread.

- A free slot goes to the request with the fewest slots; of several, to the one that has waited longest.
- If no slot is free and another request has at least two more, the last text of that request is suspended.
- If it has one more, its last text is first allowed QUANTUM tokens. So requests take turns where there are more of them
  than slots, and where the slots cannot be divided evenly.
- A request's texts begin in their order, and a suspended text goes on before the next one begins.

A request that is alone gets all slots, and none of its texts is ever suspended.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

QUANTUM = 32
"""Tokens of a turn. To suspend and restore a text costs about as much as one token."""


class Entry:
    """A text in the schedule."""

    def __init__(self, request: "Request") -> None:
        """Join a request, behind its other texts."""
        self.request, self.is_running = request, False
        self.n_allowed = 0  # tokens that it may still make before a request with one slot less takes its slot
        request.waiting.append(self)


class Request:
    """The texts of one request, in their order: the running ones, then the waiting ones."""

    def __init__(self) -> None:
        """Begin without texts."""
        self.running: list[Entry] = []
        self.waiting: deque[Entry] = deque()


Text = TypeVar("Text", bound=Entry)


class Move(NamedTuple, Generic[Text]):
    """A text that gets a slot, and the one that it takes the slot from, if none was free."""

    entering: Text
    leaving: Text | None


class Schedule(Generic[Text]):
    """The requests that have slots or wait for some."""

    def __init__(self, n_slots: int) -> None:
        """Begin with no requests."""
        self._n_slots, self.n_running, self.n_waiting = n_slots, 0, 0
        self._holders: dict[Request, None] = {}  # with running texts, at most n_slots; the last one to lose one is last
        self._queue: OrderedDict[Request, None] = OrderedDict()  # with waiting texts; the last one to move is last

    def add(self, request: Request) -> None:
        """Add a new request with its texts."""
        self._queue[request] = None
        self.n_waiting += len(request.waiting)

    def waiting(self) -> Iterator[Text]:
        """Yield all texts that have no slot."""
        for request in self._queue:
            yield from request.waiting  # type: ignore[misc] # a schedule has entries of one type

    def waiting_of(self, text: Text) -> Iterator[Text]:
        """Yield the texts of the same request that have no slot, in their order."""
        yield from text.request.waiting  # type: ignore[misc]

    def next_move(self) -> Move[Text] | None:
        """Give a slot to the text whose turn it is, and return the move; None if all may stay as it is.

        The cost grows with the number of slots, not with that of waiting texts.
        """
        taker = self._next_taker()
        if not taker:
            return None
        leaving = None
        if self.n_running == self._n_slots:
            leaving = self._next_leaving(len(taker.running))
            if not leaving:
                return None
            self._stop_running(leaving)
            leaving.request.waiting.appendleft(leaving)
            self._requeue(leaving.request)
            self.n_waiting += 1
        entering = taker.waiting.popleft()
        taker.running.append(entering)
        entering.is_running, entering.n_allowed = True, QUANTUM
        self._holders[taker] = None
        self._requeue(taker)
        self.n_running += 1
        self.n_waiting -= 1
        return Move(entering, leaving)  # type: ignore[arg-type]

    def remove(self, text: Text) -> None:
        """Forget a text that has ended or was cancelled."""
        request = text.request
        if text.is_running:
            self._stop_running(text)
            return
        request.waiting.remove(text)
        self.n_waiting -= 1
        if not request.waiting:
            del self._queue[request]

    def _next_taker(self) -> Request | None:
        """Return the request with the fewest slots that waits for one; of several, the first in the queue.

        Only requests with slots are passed over, so the search ends after `n_slots` of them.
        """
        taker = None
        for request in self._queue:
            if taker is None or len(request.running) < len(taker.running):
                taker = request
            if not request.running:
                break
        return taker

    def _next_leaving(self, n_slots: int) -> Entry | None:
        """Return the text to suspend for a request with this many slots, if there is one.

        It is the last text of a request with the most slots; of several, the one that has had the longest turn.
        """

        def priority(text: Entry) -> tuple[int, int]:
            return len(text.request.running), -text.n_allowed

        last = (request.running[-1] for request in self._holders)
        most = max(last, key=priority)
        n_more = len(most.request.running) - n_slots
        return most if n_more > 1 or (n_more == 1 and most.n_allowed <= 0) else None

    def _stop_running(self, text: Entry) -> None:
        request = text.request
        request.running.remove(text)
        text.is_running = False
        self.n_running -= 1
        del self._holders[request]
        if request.running:
            self._holders[request] = None

    def _requeue(self, request: Request) -> None:
        """Put a request that has just moved behind the others, or out of the queue if it waits for nothing."""
        self._queue.pop(request, None)
        if request.waiting:
            self._queue[request] = None
