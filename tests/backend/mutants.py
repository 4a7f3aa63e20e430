"""Would the tests of the backends, and of the caches of keys and values, notice a loop that ends too early?

A backend works in groups, blocks, tiles and chunks, and its mistakes are at their ends. So its mutants are of one kind:
a loop loses its first round, its last, a smaller last one, or a last one of one element; a bound is no bound. Each is
put in the place of its module, and some tests of the backend run, with sizes that should show it.

`python -m tests.backend.mutants` prints the table, and every survivor that is not explained.
"""

import ast
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FunctionType, ModuleType

import numpy as np
import pytest

from scratchgpt.backend.cpu.head import TILE
from scratchgpt.config import ModelConfig
from tests.backend import test_cpu
from tests.cuda import (
    checks,
    test_activation,
    test_adamw,
    test_attention,
    test_attention_half,
    test_cross_entropy,
    test_dropout,
    test_embedding,
    test_heads,
    test_launches,
    test_linear,
    test_rownorm,
    test_softmax,
    test_table,
)
from tests.engine import test_workers
from tests.generation import test_cache, test_decoder
from tests.ops.mutants import HEADER, Change, Result, mutants, parse, show, tried

__all__ = ["EXPLAINED", "HEADER", "TESTS", "first_failure", "run", "unchanged"]

Test = Callable[[], None]


def _patched(test: Callable[..., None], *arguments: object) -> None:
    """Run a test that takes a `monkeypatch` last."""
    with pytest.MonkeyPatch.context() as patch:
        test(*arguments, patch)


def launch_a_large_vocabulary() -> None:
    """Launch a step whose rows of logits have more packs than a block may have threads."""
    test_launches.launch(ModelConfig(vocab_size=3001, block_size=1, n_layer=1, n_head=1, n_embd=16), 1, "fp32")


CPU: dict[str, tuple[Test, ...]] = {
    "adamw": (
        partial(test_cpu.test_updates, test_cpu.BLOCK + 1, 0, 0.1),
        partial(test_cpu.test_updates, 3 * test_cpu.BLOCK + 5, 1, 0.1),
    ),
    "attention": (
        partial(test_cpu.test_sequences_in_groups, 5, 2, 33),
        partial(test_cpu.test_sequences_in_groups, 5, 3, 64),
        partial(test_cpu.test_sequences_in_groups, 3, 0, 31),
    ),
    "dropout": (partial(test_cpu.test_masks_are_the_references_to_the_bit, 0.2, (3, 3), np.float32),),
    "embed": (partial(test_cpu.test_rows_in_chunks, 65, 513),),
    "exchange": (
        partial(test_cpu.test_rows_in_chunks, 65, 512),
        partial(_patched, test_workers.test_more_rows_than_a_chunk),
    ),
    "head": (
        partial(test_cpu.test_tokens_in_tiles, TILE + 1, tied=False),
        partial(test_cpu.test_tokens_in_tiles, TILE + 2, tied=True),
        partial(test_cpu.test_rows_in_chunks, 65, 512),
        partial(test_cpu.test_numbers_in_blocks, 1, "relu"),
        partial(test_cpu.test_numbers_in_blocks, 11, "relu"),
        partial(test_cpu.test_numbers_in_blocks, 12, "relu"),
        partial(test_cpu.test_numbers_in_blocks, 22, "relu"),
    ),
    "mlp": (
        partial(test_cpu.test_numbers_in_blocks, 431, "gelu_new"),
        partial(test_cpu.test_numbers_in_blocks, 100, "relu"),
    ),
}
GPU: dict[str, tuple[Test, ...]] = {
    "activation": (partial(test_activation.test_activation, 1, 257, "relu", "float32"),),
    "adamw": (
        partial(test_adamw.test_sum_of_squares, 1025, "float32", 0),
        partial(test_adamw.test_update, 1025, 0, 1025, "float32", 0),
        partial(test_adamw.test_update, 1030, 3, 1028, "float32", 0),
        partial(_patched, test_adamw.test_a_sum_that_fills_all_blocks),
    ),
    "attention": (
        partial(test_attention.test_lengths, 2, 65, 1, 16, 0.1, "float32"),
        partial(test_attention.test_lengths, 1, 33, 1, 64, 0.0, "float64"),
        partial(test_attention_half.test_attention, 1, 129, 1, 16, 0.0, 0),
    ),
    "cross_entropy": (
        partial(test_cross_entropy.test_cross_entropy, 2, 3001, "float32", 0),
        launch_a_large_vocabulary,
    ),
    "dropout": (
        partial(test_dropout.test_dropout, 2, 3, 1601, "float32"),
        partial(test_dropout.test_dropout, 1, 1, 4097, "float32"),
    ),
    "embedding": (
        partial(test_embedding.test_embedding, 1, 5, 257, 3, "float32"),
        partial(test_embedding.test_runs_of_equal_tokens, [1025], 0),
    ),
    "heads": (partial(test_heads.test_split_and_join, 1, 17, 1, 3, 3, "float32", 0),),
    "linear": (partial(test_linear.test_column_sums, 65, 33, "float32", 0),),
    "memory": (
        partial(_patched, test_table.test_logits_in_parts, 200, 3),
        partial(_patched, test_table.test_how_many_rows_of_logits),
        partial(test_launches.test_as_many_sequences_as_a_grid_holds, 65),
        partial(test_launches.test_as_many_sequences_as_a_grid_holds, 1),
        test_launches.test_at_least_one_sequence,
    ),
    "rownorm": (
        partial(test_rownorm.test_norm, "layernorm", 65, 33, "float32", 0),
        partial(test_rownorm.test_norm, "rmsnorm", 5, 61, "float32", 0),
    ),
    "softmax": (
        partial(test_softmax.test_softmax, 1, 1, 127, 0.3, "float32", 0),
        partial(_patched, test_softmax.test_rows_whose_random_bytes_barely_fit, 62 + 65),
        partial(test_launches.test_as_many_rows_as_there_is_shared_memory_for, 8192),
        partial(test_launches.test_as_many_rows_as_there_is_shared_memory_for, 49_121),
    ),
    "sublayers": (
        partial(_patched, test_table.test_logits_in_parts, 200, 3),
        partial(_patched, test_table.test_logits_in_parts, 69, 5),
        partial(test_table.test_a_step, test_table.CASES[6], "fp32"),
    ),
}
DECODING: dict[str, tuple[Test, ...]] = {
    "activations": (
        partial(_patched, test_decoder.test_the_activations_of_several_rows_at_once, 2, 5),
        partial(_patched, test_decoder.test_the_activations_of_several_rows_at_once, 0.5, 2),
    ),
    "rows": (partial(test_cache.test_sequences_that_come_and_go_are_computed_as_if_alone, 0, {}, "float64"),),
}
GENERATION: dict[str, tuple[Test, ...]] = {
    "cache": (
        partial(test_decoder.test_some_of_the_sequences_go_on, [0, 2, 3]),
        partial(test_decoder.test_some_of_the_sequences_go_on, [1]),
        partial(test_decoder.test_a_prompt_for_all_and_beginning_anew, "cpu"),
        partial(test_cache.test_sequences_that_come_and_go_are_computed_as_if_alone, 0, {}, "float64"),
    ),
    "decoder": (
        partial(test_decoder.test_a_prompt_for_all_and_beginning_anew, "cpu by sublayers"),
        test_decoder.test_there_is_room_for_what_the_model_sees,
        test_decoder.test_a_full_context_goes_on_from_its_last_half,
        test_cache.test_the_first_chunk_is_what_remains,
        test_cache.test_several_prompts_of_one_length_at_once,
    ),
}
TESTS = {
    f"{package}.{name}": tests
    for package, of in (
        ("backend.cpu", CPU),
        ("backend.gpu", GPU),
        ("backend.decoding", DECODING),
        ("generation", GENERATION),
    )
    for name, tests in of.items()
}
"""For each module, by its name within scratchgpt: what its mutants must get past."""


def short(node: ast.AST, _: dict[str, str]) -> Iterator[ast.AST]:
    """Yield everything that a loop or a bound could be by mistake."""
    match node:
        case ast.Call(ast.Name("range"), [start, stop, step]):
            yield expression("range(start + step, stop, step)", start=start, stop=stop, step=step)
            for last in ("step - 1", "1"):  # the smaller one, or only one of length 1; a single one stays
                yield expression(
                    f"range(start, max(stop - ({last}), start + 1), step)", start=start, stop=stop, step=step
                )
        case ast.Call(ast.Name("min" | "max"), [first, second]):
            yield first
            yield second
        case ast.Call(ast.Attribute(_, "ceil"), [ast.BinOp(whole, ast.Div(), part)]) | ast.UnaryOp(
            ast.USub(), ast.BinOp(ast.UnaryOp(ast.USub(), whole), ast.FloorDiv(), part)
        ):
            yield expression("max(whole // part, 1)", whole=whole, part=part)
            yield expression("max(-(-(whole - 1) // part), 1)", whole=whole, part=part)
        case ast.For(target, rounds, body, orelse):
            for fewer in ("list(rounds)[1:]", "(each := list(rounds))[:-1] or each"):
                yield ast.For(target, expression(fewer, rounds=rounds), body, orelse)


def expression(text: str, **parts: ast.expr) -> ast.expr:
    """Return the syntax tree of an expression with these parts in the place of their names."""

    class _Placed(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return parts.get(node.id, node)

    placed: ast.expr = _Placed().visit(ast.parse(text, mode="eval").body)
    return placed


GROUP_SIZE = "size = max(1, block_bytes // bytes_per_sequence)"
GROUPS = "return (slice(start, min(start + size, B)) for start in range(0, B, size))"
SQUARES = "blocks = min(MOST_BLOCKS, math.ceil(grads.size / (THREADS * n)))"
CLIPPED = "A slice that ends behind the array ends with it."
STRIDES = "A kernel's threads stride over the whole array, so any number of them does all of it."
SPEED = "Smaller parts take longer and are the same."

EXPLAINED: dict[Change, str] = {
    Change("backend.cpu.attention._groups", GROUP_SIZE, "size = 1"): SPEED,
    Change(
        "backend.cpu.attention._groups",
        GROUPS,
        "return (slice(start, start + size) for start in range(0, B, size))",
    ): CLIPPED,
    Change(
        "backend.cpu.attention._groups", GROUPS, "return (slice(start, B) for start in range(0, B, size))"
    ): "A group computes what the next ones compute again.",
    Change("backend.cpu.exchange.rows_of_a_lane", "return max(1, ROWS // size)", "return 1"): SPEED,
    Change(
        "backend.cpu.exchange.rows_of_a_lane", "return max(1, ROWS // size)", "return ROWS // size"
    ): "There are at most 64 lanes, fewer than ROWS.",
    Change(
        "backend.cpu.head._exponentials", "block = max(1, 2 * block_bytes // (v * exps.itemsize))", "block = 1"
    ): SPEED,
    **{
        Change("backend.gpu.adamw.sum_of_squares", SQUARES, f"blocks = {blocks}"): STRIDES
        for blocks in (
            "MOST_BLOCKS",
            "math.ceil(grads.size / (THREADS * n))",
            "min(MOST_BLOCKS, max(grads.size // (THREADS * n), 1))",
            "min(MOST_BLOCKS, max(-(-(grads.size - 1) // (THREADS * n)), 1))",
        )
    },
    Change(
        "backend.gpu.attention.backward",
        "blocks = math.ceil(B * T * H * LANES / THREADS)",
        "blocks = max(-(-(B * T * H * LANES - 1) // THREADS), 1)",
    ): "LANES divides both numbers, so the last block never has only one thread to do.",
    **{
        Change("backend.gpu.cross_entropy.forward_backward", "warps = -(-S // (32 * n))", f"warps = {warps}"): STRIDES
        for warps in ("max(S // (32 * n), 1)", "max(-(-(S - 1) // (32 * n)), 1)")
    },
    Change(
        "backend.gpu.cross_entropy.forward_backward",
        "threads = min(MOST_THREADS, 32 * warps)",
        "threads = MOST_THREADS",
    ): STRIDES,
    Change("backend.gpu.softmax._launch", "rows = max(1, min(MOST_ROWS, (SHARED_BYTES - 62) // T))", "rows = 1"): SPEED,
    Change(
        "backend.gpu.softmax._launch",
        "shared_bytes = 32 * math.ceil((31 + rows * T) / 32)",
        "shared_bytes = 32 * max(-(-(31 + rows * T - 1) // 32), 1)",
    ): "It is less only where rows * T is 2 more than a multiple of 32; then blocks begin at even bytes, 30 at most.",
    Change(
        "backend.decoding.activations.gelu",
        "n_rows = max(1, PART_BYTES // hidden[0].nbytes) if xp is np else R",
        "n_rows = 1 if xp is np else R",
    ): SPEED,
    **{
        Change(
            "backend.decoding.activations.gelu",
            "buffer = take('scratch', min(n_rows, R), K)",
            f"buffer = take('scratch', {rows}, K)",
        ): "It takes more memory and is the same."
        for rows in ("n_rows", "R")
    },
}
"""The mutants that nothing can kill, and why each computes the same."""


def unchanged(module: str) -> CodeType:
    """Return the code of a module without a mistake."""
    return compile(parse(module), module, "exec")


def run(module: str) -> Result:
    """Make every mutant of a module and try its tests on each."""
    return tried(module, mutants(module, short), first_failure, EXPLAINED)


def first_failure(name: str, code: CodeType) -> Exception | None:
    """Run a module's tests with other code in its place; a test cannot tell whether it is a module of files."""
    module = ModuleType(f"scratchgpt.{name}")
    sys.modules[module.__name__], original = module, sys.modules[module.__name__]  # for the code's own NamedTuples
    try:
        exec(code, vars(module))  # noqa: S102 - the code is the project's own
    finally:
        sys.modules[module.__name__] = original
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "errors", defaultdict(list))  # a mutant's errors are not the kernels'
        put_in_place(module, original, patch)
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for test in TESTS[name]:
                    test()
        except Exception as error:  # noqa: BLE001 - whatever a mistake leads to
            return error
    return None


def put_in_place(module: ModuleType, original: ModuleType, patch: pytest.MonkeyPatch) -> None:
    """Let every module that knows the original, or a function or class of it, know the other."""
    for user in [user for name, user in sys.modules.items() if name.startswith(("scratchgpt.", "tests."))]:
        for name, value in list(vars(user).items()):
            if value is original:
                patch.setattr(user, name, module)
            elif isinstance(value, FunctionType | type) and value.__module__ == original.__name__:
                patch.setattr(user, name, vars(module)[value.__name__])


def main() -> None:
    """Print the table of the backends."""
    os.environ.setdefault("PYTEST_CURRENT_TEST", __name__)  # by which `assert_close` sorts what it finds
    show(map(run, sys.argv[1:] or TESTS))


if __name__ == "__main__":
    main()
