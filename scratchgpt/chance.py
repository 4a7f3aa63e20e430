"""Where everything random comes from: a function of the seed and of where the numbers are used.

No generator has a history that would have to be saved: a resumed run draws what the undisturbed one would
have drawn, and how work is spread over processes changes nothing. See ops/dropout.md for the generator.
"""

from enum import IntEnum

import numpy as np


class Place(IntEnum):
    """What the numbers are for. These values are part of every run's arithmetic: never renumber."""

    EMBEDDING = 0
    ATTENTION = 1
    ATTENTION_OUTPUT = 2
    MLP_OUTPUT = 3
    INITIALISATION = 16
    BATCH = 17
    SAMPLE = 18


def philox(place: Place, *, seed: int, step: int = 0, sequence: int = 0, layer: int = 0) -> np.random.Philox:
    """Return the stream of random bits for one place.

    Philox 4x64-10 (Salmon et al.: Parallel Random Numbers: As Easy as 1, 2, 3, 2011) with key (seed, step) and
    counter (block, sequence, layer, place); all below 2**64, block counting from the start of the stream.
    """
    return np.random.Philox(
        key=np.array([seed, step], np.uint64),
        counter=np.array([0, sequence, layer, place], np.uint64),
    )
