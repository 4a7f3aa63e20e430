"""Every kernel at all ragged shapes, in each type, under two orders of threads: ``python -m tests.cuda.sweep``.

The tests run a core set of these in seconds; this runs their checks at the products of all sizes, in minutes, and
prints how far each kernel is from the float64 reference, as docs/gpu.md shows it.
"""

import os
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

from scratchgpt.backend.gpu import attention
from scratchgpt.ops.sublayers import ACTIVATIONS
from tests.cuda import (
    test_activation,
    test_adamw,
    test_attention,
    test_attention_half,
    test_cross_entropy,
    test_dropout,
    test_embedding,
    test_heads,
    test_linear,
    test_products,
    test_rownorm,
    test_softmax,
)
from tests.cuda.checks import DTYPES, SEEDS, errors

ROWS = (1, 17, 61, 64, 65, 127, 200)
COLUMNS = (5, 48, 65, 128, 384)
HEADS = ((1, 3), (2, 16), (3, 8), (1, 64), (2, 20))
"""How many, of which size."""
RATES = (0.0, 0.25)


def cases(file: str) -> Iterator[tuple[Any, tuple[Any, ...]]]:  # noqa: C901, PLR0912 - a case for each file
    """Yield each check of a file's kernels with its arguments, a shape and then type and seed."""
    ways = tuple(product(DTYPES, SEEDS))
    shapes = tuple(product(ROWS, COLUMNS))
    match file:
        case "layernorm" | "rmsnorm":
            yield from ((test_rownorm.test_norm, (file, *shape, *way)) for shape in shapes for way in ways)
        case "linear":
            yield from ((test_linear.test_column_sums, (*shape, *way)) for shape in shapes for way in ways)
        case "activation":  # the number of rows decides about the order of threads
            for (rows, columns), name, dtype, more in product(shapes, ACTIVATIONS, DTYPES, SEEDS):
                yield test_activation.test_activation, (rows + more, columns, name, dtype)
        case "dropout":  # so does the length here
            for (T, C), dtype, more in product(shapes, DTYPES, SEEDS):
                yield test_dropout.test_dropout, (2, T + more, C, dtype)
        case "embedding":
            for (T, C), dtype, more in product(shapes, DTYPES, SEEDS):
                yield test_embedding.test_embedding, (1 + more, T, C, 65, dtype)
        case "heads":
            for T, heads, way in product(ROWS, HEADS, ways):
                yield test_heads.test_split_and_join, (2, T, *heads, 3, *way)
        case "cross_entropy":
            for n, V, way in product(ROWS, (2, 65, 127, 200, 1029), ways):
                yield test_cross_entropy.test_cross_entropy, (n, V, *way)
        case "softmax":
            for T, rate, heads, way in product(ROWS, RATES, ((1, 1), (2, 1), (1, 3), (2, 2), (3, 1)), ways):
                yield test_softmax.test_softmax, (*heads, T, rate, *way)
        case "adamw":
            for P, begin, rest, way in product((*ROWS, 1023, 4099), (0, 1, 5), (0, 1, 6), ways):
                if begin + rest < P:
                    yield test_adamw.test_update, (P, begin, P - rest, *way)
        case "products":
            for T, heads, rate, way in product(ROWS, HEADS, RATES, ways):
                yield test_products.test_attention, (1, T, *heads, rate, *way)
        case "attention":
            for dtype, D in product(DTYPES[:2], test_attention.HEAD_SIZES):
                for T, rate, seed in (
                    product((*ROWS, 2, 31, 33, 100), RATES, SEEDS) if attention.supports(dtype, D) else ()
                ):
                    yield test_attention.check_random, (1, T, 1, D, dtype, rate, seed)
        case "attention_half":
            for T, D, rate, seed in product(ROWS, test_attention.HEAD_SIZES, RATES, SEEDS):
                yield test_attention_half.check_random, (1, T, 1, D, rate, seed)


FILES = (
    *("activation", "adamw", "attention", "attention_half", "cross_entropy", "dropout"),
    *("embedding", "heads", "layernorm", "linear", "products", "rmsnorm", "softmax"),
)


def main() -> None:
    """Check, then print a row for each file."""
    for file in sys.argv[1:] or FILES:
        os.environ["PYTEST_CURRENT_TEST"] = f"test_{file}.py::sweep"
        n_checks = 0
        for check, arguments in cases(file):
            check(*arguments)
            n_checks += 1
        cells = [errors[file, dtype] for dtype in DTYPES]
        shown = " | ".join(f"{max(found):.1e} ({len(found):,})" if found else "" for found in cells)
        print(f"| {file} | {n_checks:,} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
