from __future__ import annotations

import ast

import pytest

from tests.simulation import operators
from tests.simulation.operators import CannotApply, Operator


@pytest.mark.parametrize(
    ("operator", "before", "after"),
    [
        (operators.drop_call("halve"), "self.a.halve()\nkept()", "pass\nkept()"),
        (operators.drop_call("settle", mentions="Failed"), "settle(a, Failed())\nsettle(a, Late())", "pass\nsettle(a, Late())"),
        (operators.drop_assignment("served"), "self.served[caller] += length", "pass"),
        (operators.assign_instead_of_adding("alone"), "a.alone[x] += y", "a.alone[x] = y"),
        (operators.set_condition("limit", False), "if x > limit:\n    y()", "if False:\n    y()"),
        (operators.negate_condition("limit"), "z = 1 if limit else 2", "z = 1 if not limit else 2"),
        (operators.negate_return("limit"), "if x > limit:\n    return True", "if x > limit:\n    return False"),
        (operators.drop_operand("b"), "x = a and b and c", "x = a and c"),
        (operators.drop_operand("b"), "x = a or b.c", "x = a"),
        (operators.compare_by(ast.Gt, "limit"), "x = items == limit", "x = items > limit"),
        (operators.add_to_compared("deadline", 1.0), "x = job.deadline <= now", "x = job.deadline + 1.0 <= now"),
        (operators.drop_addend("STEP"), "x = min(1, a + STEP)", "x = min(1, a)"),
        (operators.drop_addend_of_argument("fits"), "fits(n + 1, m)", "fits(n, m)"),
        (operators.shift_index_of_argument("take", -1), "x = take(works[i])", "x = take(works[i + -1])"),
        (operators.drop_keyword("sorted", "reverse"), "sorted(a, key=k, reverse=True)", "sorted(a, key=k)"),
        (operators.first_argument_instead_of("max"), "x = max(a, b)", "x = a"),
        (operators.constant_instead_of("ask", 7.0), "x = ask() - now", "x = 7.0 - now"),
        (operators.other_attribute("left", "works"), "f(running.left)", "f(running.works)"),
        (operators.set_constant("LIMIT", 2.0), "LIMIT = 1.0", "LIMIT = 2.0"),
    ],
    ids=lambda given: given.does if isinstance(given, Operator) else "",
)
def test_an_operator_changes_its_one_place(operator: Operator, before: str, after: str) -> None:
    tree = ast.parse(before)

    operators.apply(operator, tree)

    assert ast.unparse(tree) == after


@pytest.mark.parametrize(("source", "places"), [("kept()", 0), ("a.halve()\nb.halve()", 2)])
def test_an_operator_that_applies_in_no_place_or_in_several_is_an_error(source: str, places: int) -> None:
    with pytest.raises(CannotApply, match=f"in {places} places"):
        operators.apply(operators.drop_call("halve"), ast.parse(source))
