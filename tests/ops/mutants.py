"""Would the checks notice a mistake? Make every small mistake there is, one at a time, and see.

A mutant is a module with one place of its syntax tree changed: a term dropped, a sign turned, operands swapped, an
axis or a constant off by one, `=` for `+=`, a wrong field. It is run against the checks of its module, and killed
when one of them fails. A survivor is either a hole in the checks, to be closed, or a change that changes
nothing; those few are listed in `EXPLAINED`, each with its proof, and the list must be exact.

`python -m tests.ops.mutants` prints the table, and every survivor that is not explained.
"""

import ast
import importlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import CodeType, ModuleType
from typing import Any, NamedTuple, cast

import numpy as np

from tests.ops import cases, checks

Check = Callable[[ModuleType], None]
Mistakes = Callable[[ast.AST, dict[str, str]], Iterator[ast.AST]]

OTHERS: dict[str, tuple[Check, ...]] = {
    "chance": (
        checks.check_places,
        partial(checks.check_philox, place=17, seed=2**63 + 5, step=3, sequence=2**63 + 1, layer=7),
        partial(checks.check_philox, place=16, seed=1),
    ),
    "ops.adamw": (checks.check_norm, checks.check_clip_scale, checks.check_settings, checks.check_adamw),
    "ops.array": (checks.check_array_module,),
    "ops.dropout": (
        partial(checks.check_mask, rate=0.3, seed=1, step=2, sequences=(9, 4, 6), layer=5, place=3, shape=(3, 9)),
        partial(
            checks.check_mask, rate=0.5, seed=0, step=7, sequences=(3,), layer=1, place=1, shape=(5,), dtype="float32"
        ),
    ),
    "ops.attention": (checks.check_heads, checks.check_between),
    "ops.cache": (checks.check_span, checks.check_layer_cache),
    "ops.relu": (checks.check_kink,),
    "ops.sublayers": (
        checks.check_table,
        checks.check_masks,
        checks.check_unwanted,
        checks.check_extend,
        checks.check_at,
    ),
    "ops.optimizer": (checks.check_rule,),
    "ops.cross_entropy": (checks.check_weigh,),
}
"""What is checked of a module besides its cases."""


def _on_case(build: Callable[[ModuleType], checks.Case], module: ModuleType) -> None:
    checks.check(build(module))
    checks.check_dtype(build(module), "float32")


CHECKS: dict[str, tuple[Check, ...]] = OTHERS | {
    f"ops.{name}": (*OTHERS.get(f"ops.{name}", ()), *(partial(_on_case, build) for build in builds))
    for name, builds in cases.EXAMPLES.items()
}
"""For each module, by its name within scratchgpt: what its mutants must get past."""


# ------------------------------------------------------------------------------------- how to be wrong

OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.Pow: ast.Mult,
}
COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
FUNCTIONS = {
    "sum": "mean",
    "mean": "sum",
    "max": "min",
    "maximum": "minimum",
    "exp": "expm1",
    "log": "log1p",
    "tanh": "arctan",
    "sqrt": "cbrt",
    "tril": "triu",
    "ones": "zeros",
    "zeros": "ones",
}
RECORDS = ("params", "grads", "saved", "self", "step", "moments")
"""The names of variables that hold a record, one of whose fields can be mistaken for the next."""

SYMMETRIC = ("swapaxes", "maximum")
"""Calls that mean the same with their arguments exchanged."""


def _fields(tree: ast.Module) -> dict[str, str]:
    """Of each class in the module: what stands after each field, the first after the last."""
    following: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names = [ast.unparse(line.target) for line in node.body if isinstance(line, ast.AnnAssign)]
            following |= dict(zip(names, names[1:] + names[:1], strict=True))
    return following


def _wrong(node: ast.AST, fields: dict[str, str]) -> Iterator[ast.AST]:  # noqa: C901, PLR0912 - a case for each mistake
    """Everything that could have been written by mistake for this node."""
    match node:
        case ast.BinOp(left, operator, right) if type(operator) in OPERATORS:
            yield left
            yield right
            yield ast.BinOp(left, OPERATORS[type(operator)](), right)
            yield ast.UnaryOp(ast.USub(), node)
            if not isinstance(operator, ast.Add | ast.Mult):
                yield ast.BinOp(right, operator, left)
        case ast.UnaryOp(ast.USub(), operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() as value):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.Constant(float() as value):
            yield ast.Constant(value * 1.001 or 0.001)
        case ast.Compare(left, operators, rights):
            for i, comparison in enumerate(operators):
                for other in COMPARISONS[type(comparison)]:
                    yield ast.Compare(left, [*operators[:i], other(), *operators[i + 1 :]], rights)
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.If(test, body, orelse):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.AugAssign(target, operator, value):
            yield ast.Pass()
            yield ast.Assign([target], value)
            yield ast.AugAssign(target, OPERATORS[type(operator)](), value)
        case ast.Expr(ast.Call()):
            yield ast.Pass()
        case ast.Attribute(value, "T", context):
            yield value
        case ast.Attribute(ast.Name(record) as value, name, context) if record in RECORDS and name in fields:
            yield ast.Attribute(value, fields[name], context)
        case ast.Attribute(value, name, context) if name in FUNCTIONS:
            yield ast.Attribute(value, FUNCTIONS[name], context)
        case ast.Tuple(elements, context):
            yield from (ast.Tuple(swapped, context) for swapped in _swapped(elements))
        case ast.Call(function, arguments, keywords):
            name = function.attr if isinstance(function, ast.Attribute) else ""
            if name == "swapaxes":
                yield cast(ast.Attribute, function).value
            if name not in SYMMETRIC:
                yield from (ast.Call(function, swapped, keywords) for swapped in _swapped(arguments))
            if len(arguments) > 1:
                yield ast.Call(function, arguments[:-1], keywords)
            for i in range(len(keywords)):
                yield ast.Call(function, arguments, keywords[:i] + keywords[i + 1 :])
            for values in _swapped([keyword.value for keyword in keywords]):
                pairs = zip(keywords, values, strict=True)
                yield ast.Call(function, arguments, [ast.keyword(keyword.arg, value) for keyword, value in pairs])


def _swapped(items: list[Any]) -> Iterator[list[Any]]:
    """The items, with two neighbours in each other's place."""
    for i in range(len(items) - 1):
        yield [*items[:i], items[i + 1], items[i], *items[i + 2 :]]


# ---------------------------------------------------------------------------------------- every mutant


class Change(NamedTuple):
    """One mistake."""

    where: str  # module and function, or class
    before: str  # the first line of the statement with the mistake
    after: str


def mutants(module: str, mistakes: Mistakes = _wrong) -> Iterator[tuple[Change, CodeType]]:
    """Make all mutants of a module, none twice. Annotations and decorators stay as they are."""
    tree = parse(module)
    fields, seen = _fields(tree), set()
    for site in _sites(tree):
        before = _first_line(site.statement)
        for wrong in mistakes(site.node, fields):
            site.container[site.key] = ast.fix_missing_locations(ast.copy_location(wrong, site.node))
            # A statement that is replaced is no longer in the tree: what stands there is the wrong one.
            after = _first_line(wrong if site.node is site.statement else site.statement)
            if after != before and (site.statement.lineno, after) not in seen:
                seen.add((site.statement.lineno, after))
                yield Change(f"{module}.{site.function}", before, after), compile(tree, module, "exec")
            site.container[site.key] = site.node


def parse(module: str) -> ast.Module:
    """Return the syntax tree of a module as it is."""
    return ast.parse(inspect.getsource(importlib.import_module(f"scratchgpt.{module}")))


class Site(NamedTuple):
    """A node and where it hangs: `container[key] is node`."""

    node: ast.AST
    container: Any  # a list, or the attributes of the parent node
    key: Any
    statement: ast.stmt  # the innermost around it
    function: str


def _sites(parent: ast.AST, statement: ast.stmt | None = None, function: str = "") -> Iterator[Site]:
    for field, value in ast.iter_fields(parent):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        container: Any = value if isinstance(value, list) else vars(parent)
        for key in range(len(value)) if isinstance(value, list) else [field]:
            node = container[key]
            if isinstance(node, ast.AST):
                inner = node if isinstance(node, ast.stmt) else statement
                name = node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else function
                if inner is not None:
                    yield Site(node, container, key, inner, name)
                yield from _sites(node, inner, name)


def _first_line(node: ast.AST) -> str:
    return ast.unparse(node).partition("\n")[0]


# --------------------------------------------------------------------------------------------- results


LAST_OF_TWO = "The array has two axes: axis 1 is the last."
LAST_OF_FOUR = "The array has four axes: axis 2 is the last but one."
UNKNOWN = "NumPy takes any negative length as the unknown one."
MORE_WORDS = "More words are drawn than are used, and the first are the same."

EXPLAINED: dict[Change, str] = {
    Change(
        "ops.adamw.clip_scale",
        "return max_norm / norm if 0 < max_norm < norm else 1.0",
        "return max_norm / norm if 0 < max_norm <= norm else 1.0",
    ): "Where the two are equal their quotient is exactly 1.",
    **{
        Change(
            "ops.dropout.mask",
            "row[:] = bits.random_raw(-(-size // 8)).astype('<u8').view(np.uint8)[:size]",
            f"row[:] = bits.random_raw({words}).astype('<u8').view(np.uint8)[:size]",
        ): MORE_WORDS
        for words in ("--size", "-(-size * 8)", "-(-size // 7)")
    },
    **{
        Change(
            "ops.dropout.mask",
            "for row, sequence in zip(drawn, sequences, strict=True):",
            f"for row, sequence in zip(drawn, sequences{strict}):",
        ): "`drawn` was made with one row for each sequence."
        for strict in (", strict=False", "")
    },
    Change(
        "ops.dropout.mask",
        "drawn = np.empty((len(sequences), size), np.uint8)",
        "drawn = np.empty((len(sequences), size))",
    ): "A byte is the same number as float64, and is compared alike.",
    Change(
        "ops.sublayers.forward",
        "mask = dropout_mask(step, Place.EMBEDDING, 0, x.shape[1:], x)",
        "mask = dropout_mask(step, 0, Place.EMBEDDING, x.shape[1:], x)",
    ): "Both numbers are 0.",
    Change(
        "ops.attention.split_heads",
        "return x.reshape(B, T, n_head, C // n_head).swapaxes(1, 2)",
        "return x.reshape(B, T, n_head, -(C // n_head)).swapaxes(1, 2)",
    ): UNKNOWN,
    Change(
        "ops.attention.merge_heads",
        "return x.swapaxes(1, 2).reshape(B, T, H * D)",
        "return x.swapaxes(1, 2).reshape(B, T, -(H * D))",
    ): UNKNOWN,
    **{
        Change(where, before, before.replace("reshape(-1", "reshape(-2")): UNKNOWN
        for where, before in (
            ("ops.sublayers.loss", "rows = logits.reshape(-1, logits.shape[-1])"),
            ("ops.cross_entropy.weigh", "ids = targets.reshape(-1)"),
            ("ops.cross_entropy.weigh", "found *= weights.reshape(-1)"),
            ("ops.linear.backward", "rows = dy.reshape(-1, dy.shape[-1])"),
            ("ops.linear.backward", "dweight = saved.x.reshape(-1, saved.x.shape[-1]).T @ rows"),
            ("ops.embedding.backward", "tokens = saved.tokens.reshape(-1)"),
            (
                "ops.embedding.backward",
                "dtoken_table[used] = xp.add.reduceat(dx.reshape(-1, C)[order], starts, axis=0)",
            ),
        )
    },
    Change(
        "ops.embedding.backward",
        "order = xp.argsort(tokens, kind='stable')",
        "order = xp.argsort(tokens)",
    ): "Equal tokens in another order are the same sum in another order; stability fixes its rounding.",
    Change(
        "ops.embedding.backward",
        "dtoken_table[used] = xp.add.reduceat(dx.reshape(-1, C)[order], starts, axis=0)",
        "dtoken_table[used] = xp.add.reduceat(dx.reshape(-1, C)[order], starts)",
    ): "Axis 0 is reduceat's default.",
    Change(
        "ops.attention.forward",
        "visible = xp.tril(xp.ones((T, T), dtype=bool))",
        "visible = xp.tril(xp.ones((T, T)))",
    ): "`where` takes 1.0 for true and 0.0 for false.",
    Change("ops.attention.forward", "T, D = q.shape[-2:]", "T, D = q.shape[2:]"): LAST_OF_FOUR,
    **{
        Change(where, before, before.replace("swapaxes(-1, -2)", "swapaxes(-1, 2)")): LAST_OF_FOUR
        for where, before in (
            ("ops.attention.forward", "scores = q @ k.swapaxes(-1, -2) * (1 / math.sqrt(D))"),
            ("ops.attention.between", "scores = q @ k.swapaxes(-1, -2) * (1 / math.sqrt(q.shape[-1]))"),
            ("ops.attention.backward", "dv = weights.swapaxes(-1, -2) @ dy"),
            ("ops.attention.backward", "dprobabilities = dropout.backward(dy @ v.swapaxes(-1, -2), mask)"),
            ("ops.attention.backward", "return (dscores @ k, dscores.swapaxes(-1, -2) @ q, dv)"),
        )
    },
    Change(
        "ops.attention.forward",
        "probabilities, _ = softmax.forward(xp.where(visible, scores, -math.inf))",
        "_, probabilities = softmax.forward(xp.where(visible, scores, -math.inf))",
    ): "What softmax saves is its result.",
    Change(
        "ops.attention.between",
        "weights, _ = softmax.forward(scores if mask is None else scores + mask)",
        "_, weights = softmax.forward(scores if mask is None else scores + mask)",
    ): "What softmax saves is its result.",
    Change(
        "ops.cache.of",
        "return cls(rows, positions if T == 1 else positions + xp.arange(T), n_kept, n_kept + T)",
        "return cls(rows, positions if T == 0 else positions + xp.arange(T), n_kept, n_kept + T)",
    ): "For T = 1 it adds 0.",
    Change(
        "ops.cache.keep",
        "for kept, new in ((self.keys, k), (self.values, v)):",
        "for kept, new in ((self.values, v), (self.keys, k)):",
    ): "Keys and values share no memory, so their order does not matter.",
    Change(
        "ops.cross_entropy.forward",
        "shifted = logits - logits.max(axis=-1, keepdims=True)",
        "shifted = logits - logits.max(axis=1, keepdims=True)",
    ): LAST_OF_TWO,
    Change(
        "ops.cross_entropy.forward",
        "sums = exps.sum(axis=-1, keepdims=True)",
        "sums = exps.sum(axis=1, keepdims=True)",
    ): LAST_OF_TWO,
    Change(
        "ops.cross_entropy.forward",
        "losses = xp.log(sums[:, 0]) - shifted[xp.arange(len(targets)), targets]",
        "losses = xp.log(sums[:, -1]) - shifted[xp.arange(len(targets)), targets]",
    ): "The axis has length 1: its first entry is its last.",
}
"""The mutants that nothing can kill, and why each computes the same."""


class Result(NamedTuple):
    """What became of a module's mutants."""

    module: str
    by_value: int  # killed because a number was wrong
    by_error: int  # killed because it could not be computed at all
    survivors: list[Change]
    explained: Mapping[Change, str] = EXPLAINED

    @property
    def total(self) -> int:
        """How many there were."""
        return self.by_value + self.by_error + len(self.survivors)

    @property
    def unexplained(self) -> list[Change]:
        """Holes in the checks."""
        return [change for change in self.survivors if change not in self.explained]

    @property
    def stale(self) -> list[Change]:
        """Explanations of what is killed, or no longer exists."""
        explained = [change for change in self.explained if change.where.rpartition(".")[0] == self.module]
        return [change for change in explained if change not in self.survivors]

    def __str__(self) -> str:
        """One row of the table."""
        n_explained = len(self.survivors) - len(self.unexplained)
        return ROW.format(self.module, self.total, self.by_value, self.by_error, n_explained, len(self.unexplained))


ROW = "{:20}{:>9}{:>17}{:>17}{:>11}{:>13}"
HEADER = ROW.format("module", "mutants", "killed by value", "killed by error", "explained", "unexplained")


def run(module: str) -> Result:
    """Make every mutant of a module and try its checks on each."""
    return tried(module, mutants(module), first_failure)


def tried(
    module: str,
    changed: Iterable[tuple[Change, CodeType]],
    failure: Callable[[str, CodeType], Exception | None],
    explained: Mapping[Change, str] = EXPLAINED,
) -> Result:
    """Find out which mutants of a module fail."""
    by_value, by_error, survivors = 0, 0, []
    for change, code in changed:
        match failure(module, code):
            case None:
                survivors.append(change)
            case AssertionError():
                by_value += 1
            case _:
                by_error += 1
    return Result(module, by_value, by_error, survivors, explained)


def first_failure(name: str, code: CodeType) -> Exception | None:
    """Run a module's checks on other code for it. No warning kills a mutant, only a wrong number or an error."""
    module = ModuleType(f"scratchgpt.{name}")
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(code, vars(module))  # noqa: S102 - the code is the project's own
            for check in CHECKS[name]:
                check(module)
    except Exception as error:  # noqa: BLE001 - whatever a mistake leads to
        return error
    return None


def main() -> None:
    """Print the table of the ops."""
    show(map(run, CHECKS))


def show(results: Iterable[Result]) -> None:
    """Print a table, and what is wrong with it."""
    print(HEADER)
    for result in results:
        print(result)
        for title, changes in (("unexplained", result.unexplained), ("stale", result.stale)):
            for change in changes:
                print(f"  {title}: {change.where}\n    {change.before}\n    {change.after}")


if __name__ == "__main__":
    main()
