"""Tests of the mathematics: values, gradients, and proof that a wrong line would be noticed.

- `plain`: every op once more, in loops over plain numbers, to compare values with.
- `cases`: every op and sublayer as one shape of thing, a `checks.Case`, whatever its signature.
- `checks`: what must hold for each case, and for the few functions that are no op.
- `mutants`: wrong versions of every op, made by machine; the checks must refuse each.
"""
