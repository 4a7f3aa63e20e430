"""A text between its first and its last token: what the engine keeps of it."""

import dataclasses
from collections.abc import Hashable

import numpy as np

from scratchgpt.chance import Place, philox
from scratchgpt.generation.sampler import Penalties
from scratchgpt.ops.array import Array
from scratchgpt.serving.job import Job, Scored
from scratchgpt.serving.schedule import Entry, Request


class Echo:
    """The log-probabilities of a prompt, computed once for all texts of a request that want them."""

    def __init__(self, scored: Scored) -> None:
        """Fill `scored`."""
        self.scored = scored
        self.n_done = 0  # positions of which the logits are known


class LiveText(Entry):
    """A text between its first and its last token: what the engine keeps of it."""

    def __init__(self, request: Request, job: Job, echo: Echo | None, block_size: int) -> None:
        """Wait for a slot; the model sees the last `block_size` tokens of the prompt."""
        super().__init__(request)
        wish = job.wish
        self.job, self.echo = job, echo
        self.slot = -1
        self.turn = 0  # of its last chunk
        self.kept: Array | None = None  # keys and values of a suspended text
        self.recent = list(wish.prompt[-block_size:])  # tokens that the model sees; the last one goes through a step
        self.penalties: Penalties | None = None  # while it has a slot
        self._generator = np.random.Generator(philox(Place.SAMPLE, seed=wish.sampling.seed, sequence=wish.number))
        # Texts of one kind are drawn together; penalties are each text's own.
        self.kind: Hashable = self
        if not wish.sampling.has_penalties:
            self.kind = dataclasses.astuple(dataclasses.replace(wish.sampling, seed=0))

    def enter(self, vocab_size: int) -> None:
        """Prepare for a slot, for the first time or again."""
        wish = self.job.wish
        if wish.sampling.has_penalties:
            self.penalties = Penalties(wish.sampling, [*wish.prompt, *self.job.tokens], (1, vocab_size))

    def uniform(self) -> float:
        """Return the text's next random number."""
        return self._generator.random()
