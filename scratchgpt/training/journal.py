"""What a run says to people: notes, sampled texts and its state. Every view of a run shows these."""

import collections

from scratchgpt.training.events import (
    Ended,
    Evaluated,
    Evaluating,
    Event,
    Noted,
    Paused,
    Resumed,
    Sampled,
    Saved,
    Started,
    StepDone,
)
from scratchgpt.wording import printable

MOST_NOTES = 200
MOST_TEXTS = 20
LONGEST_TEXT = 20_000
"""Characters of a text that are kept: its end."""


class Condition:
    """The state of a run in a word or two, as its last event left it."""

    def __init__(self) -> None:
        """Begin before the first event."""
        self.word = "starting"
        self._is_paused = False

    def see(self, event: Event) -> None:
        """Learn from an event."""
        if isinstance(event, Started | Paused | Resumed):
            self._is_paused = isinstance(event, Paused)
        match event:
            case Evaluating():
                self.word = f"evaluating {event.done / max(event.total, 1):.0%}"
            case Sampled(is_last=False):
                self.word = "generating"
            case Ended():
                self.word = "finished" if event.is_finished else "saved"
            case Started() | StepDone() | Evaluated() | Sampled() | Paused() | Resumed():
                self.word = "paused" if self._is_paused else "training"

    def end(self) -> None:
        """Learn that no more events will come."""
        if self.word not in ("finished", "saved"):
            self.word = "ended"


class Journal:
    """The notes, the texts and the state of one run, the newest last."""

    def __init__(self) -> None:
        """Begin before the first event."""
        self.notes: collections.deque[str] = collections.deque(maxlen=MOST_NOTES)
        self.texts: collections.deque[tuple[int, str]] = collections.deque(maxlen=MOST_TEXTS)  # (step, text)
        self.condition = Condition()
        self.n_texts = 0  # ever, so more than are kept
        self.version = 0  # changes with the notes and the texts
        self._is_text_open = False  # whether the next piece continues the last text

    def see(self, event: Event) -> None:
        """Learn from an event."""
        self.condition.see(event)
        match event:
            case Sampled():
                self._add(event)
            case Started():
                self._is_text_open = False  # a killed run left it
        if sentence := note(event):
            self.add_note(sentence)

    def add_note(self, sentence: str) -> None:
        """Add a sentence that did not come as an event."""
        self.notes.append(printable(sentence))
        self.version += 1

    def _add(self, piece: Sampled) -> None:
        if not self._is_text_open and piece.text:
            self.texts.append((piece.step, ""))
            self.n_texts += 1
            self._is_text_open = True
        if self._is_text_open:
            step, text = self.texts[-1]
            self.texts[-1] = (step, (text + printable(piece.text))[-LONGEST_TEXT:])
            self._is_text_open = not piece.is_last
        self.version += 1


def note(event: Event) -> str | None:
    """Return the sentence for an event, None if the event needs none."""
    match event:
        case Noted():
            return event.message
        case Started():
            verb = "continues" if event.step else "starts"
            said = f"the run {verb}: {event.n_parameters:,} parameters on {event.device}, {event.steps:,} steps in all"
        case Evaluated():
            part = "whole validation set" if event.is_whole else "validation"
            perplexity = f"{event.perplexity:.2f}" if event.perplexity < 1e6 else f"{event.perplexity:.1e}"
            said = f"{part} loss {event.loss:.4f}, perplexity {perplexity}, accuracy {event.accuracy:.1%}"
        case Saved():
            said = f"saved in {event.folder}"
        case Paused():
            said = "paused"
        case Resumed():
            said = "resumed"
        case Ended(is_early=True):
            said = "finished early, because the validation loss no longer improves"
        case Ended():
            said = "finished" if event.is_finished else "stopped"
        case _:
            return None
    return f"step {event.step:,}: {said}"
