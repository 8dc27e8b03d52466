"""Changes to the syntax tree of one function or module constant, each of which must apply in exactly one place.

Operators find their place by the names that it mentions, not by its text or line. They put in no names that the module does
not use already: a mutant that fails with a NameError would count as caught without proving anything.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass

Replacement = ast.AST | None


@dataclass(frozen=True)
class Operator:
    """`change` returns the replacement of a node, or None where it does not apply."""

    does: str
    change: Callable[[ast.AST], Replacement]


class CannotApply(Exception):
    """The code has changed: the message names the operator and in how many places it applies."""


def apply(operator: Operator, tree: ast.AST) -> None:
    """Change `tree` in place.

    Raises:
        CannotApply: the operator applies in no place, or in several.
    """
    applier = _Applier(operator)
    applier.generic_visit(tree)
    if applier.places != 1:
        raise CannotApply(f"{operator.does!r} applies in {applier.places} places, not in one")
    ast.fix_missing_locations(tree)


class _Applier(ast.NodeTransformer):
    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self.places = 0

    def visit(self, node: ast.AST) -> ast.AST:
        replacement = self._operator.change(node)
        if replacement is None:
            return self.generic_visit(node)
        self.places += 1
        return replacement


def drop_call(name: str, mentions: str = "") -> Operator:
    """The statement that is a call of `name`, with `mentions` among its arguments."""

    def change(node: ast.AST) -> Replacement:
        found = isinstance(node, ast.Expr) and _calls(node.value, name) and _mentions(node, mentions or name)
        return ast.Pass() if found else None

    return Operator(f"drop the call of {name}", change)


def drop_assignment(target: str) -> Operator:
    """The statement that assigns to the variable or attribute `target`, or to an item of it."""

    def change(node: ast.AST) -> Replacement:
        return ast.Pass() if target in _targets(node) else None

    return Operator(f"drop the assignment to {target}", change)


def assign_instead_of_adding(target: str) -> Operator:
    def change(node: ast.AST) -> Replacement:
        if isinstance(node, ast.AugAssign) and target in _targets(node):
            return ast.Assign([node.target], node.value)
        return None

    return Operator(f"assign to {target} instead of adding", change)


def set_condition(mentions: str, value: bool) -> Operator:
    """The condition of the `if`, `while` or conditional expression that mentions a name becomes a constant."""
    return _condition(mentions, lambda test: ast.Constant(value), f"the condition with {mentions} is always {value}")


def negate_condition(mentions: str) -> Operator:
    return _condition(mentions, lambda test: ast.UnaryOp(ast.Not(), test), f"negate the condition with {mentions}")


def negate_return(mentions: str) -> Operator:
    """The constant that is returned where the condition that mentions a name holds."""

    def change(node: ast.AST) -> Replacement:
        if not isinstance(node, ast.If) or not _mentions(node.test, mentions):
            return None
        match node.body:
            case [ast.Return(ast.Constant(bool(value)))]:
                return ast.If(node.test, [ast.Return(ast.Constant(not value))], node.orelse)
        return None

    return Operator(f"negate what is returned under the condition with {mentions}", change)


def drop_operand(mentions: str) -> Operator:
    """The operand of an `and` or `or` that mentions a name."""

    def change(node: ast.AST) -> Replacement:
        if not isinstance(node, ast.BoolOp):
            return None
        kept = [operand for operand in node.values if not _mentions(operand, mentions)]
        if len(kept) != len(node.values) - 1:
            return None
        return ast.BoolOp(node.op, kept) if len(kept) > 1 else kept[0]

    return Operator(f"drop the operand with {mentions}", change)


def compare_by(operator: type[ast.cmpop], mentions: str) -> Operator:
    """The comparison that mentions a name gets another operator."""

    def change(node: ast.AST) -> Replacement:
        if isinstance(node, ast.Compare) and _mentions(node, mentions) and not isinstance(node.ops[0], operator):
            return ast.Compare(node.left, [operator()], node.comparators)
        return None

    return Operator(f"compare by {operator.__name__} where {mentions} is compared", change)


def add_to_compared(mentions: str, amount: float) -> Operator:
    """The left side of the comparison that mentions a name there becomes larger by `amount`."""

    def change(node: ast.AST) -> Replacement:
        if isinstance(node, ast.Compare) and _mentions(node.left, mentions):
            return ast.Compare(ast.BinOp(node.left, ast.Add(), ast.Constant(amount)), node.ops, node.comparators)
        return None

    return Operator(f"add {amount} to {mentions} where it is compared", change)


def drop_addend(mentions: str) -> Operator:
    """What is added in the sum whose second term mentions a name."""

    def change(node: ast.AST) -> Replacement:
        found = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and _mentions(node.right, mentions)
        return node.left if found else None

    return Operator(f"drop the addend {mentions}", change)


def drop_addend_of_argument(call: str) -> Operator:
    """In the first argument of a call, which is a sum, the second term."""

    def change(node: ast.AST) -> Replacement:
        if not _calls(node, call) or not node.args:
            return None
        match node.args[0]:
            case ast.BinOp(left, ast.Add()):
                return ast.Call(node.func, [left, *node.args[1:]], node.keywords)
        return None

    return Operator(f"drop the addend in the first argument of {call}", change)


def shift_index_of_argument(call: str, by: int) -> Operator:
    """In the first argument of a call whose answer is kept, which is an item of a sequence, the index."""

    def change(node: ast.AST) -> Replacement:
        if not isinstance(node, ast.Assign) or not _calls(node.value, call):
            return None
        match node.value.args:
            case [ast.Subscript(value, index)]:
                shifted = ast.Subscript(value, ast.BinOp(index, ast.Add(), ast.Constant(by)), ast.Load())
                return ast.Assign(node.targets, ast.Call(node.value.func, [shifted], []))
        return None

    return Operator(f"shift the index in the argument of {call} by {by}", change)


def drop_keyword(call: str, keyword: str) -> Operator:
    def change(node: ast.AST) -> Replacement:
        if not _calls(node, call) or keyword not in [given.arg for given in node.keywords]:
            return None
        return ast.Call(node.func, node.args, [given for given in node.keywords if given.arg != keyword])

    return Operator(f"drop the argument {keyword} of {call}", change)


def first_argument_instead_of(call: str) -> Operator:
    """The call becomes its first argument."""

    def change(node: ast.AST) -> Replacement:
        return node.args[0] if _calls(node, call) and len(node.args) > 1 else None

    return Operator(f"the first argument instead of {call}", change)


def constant_instead_of(call: str, value: float) -> Operator:
    def change(node: ast.AST) -> Replacement:
        return ast.Constant(value) if _calls(node, call) else None

    return Operator(f"{value} instead of a call of {call}", change)


def other_attribute(name: str, instead: str) -> Operator:
    """`x.instead` in place of `x.name`."""

    def change(node: ast.AST) -> Replacement:
        if isinstance(node, ast.Attribute) and node.attr == name:
            return ast.Attribute(node.value, instead, node.ctx)
        return None

    return Operator(f"{instead} instead of {name}", change)


def set_constant(name: str, value: float) -> Operator:
    """The value of a constant of the module."""

    def change(node: ast.AST) -> Replacement:
        if isinstance(node, ast.Assign) and name in _targets(node):
            return ast.Assign(node.targets, ast.Constant(value))
        return None

    return Operator(f"{name} = {value}", change)


def _condition(mentions: str, changed: Callable[[ast.expr], ast.expr], does: str) -> Operator:
    def change(node: ast.AST) -> Replacement:
        match node:
            case ast.If(test, body, orelse) if _mentions(test, mentions):
                return ast.If(changed(test), body, orelse)
            case ast.While(test, body, orelse) if _mentions(test, mentions):
                return ast.While(changed(test), body, orelse)
            case ast.IfExp(test, body, orelse) if _mentions(test, mentions):
                return ast.IfExp(changed(test), body, orelse)
        return None

    return Operator(does, change)


def _calls(node: ast.AST, name: str) -> bool:
    """Whether it is a call of the function or method `name`."""
    return isinstance(node, ast.Call) and name == _last_name(node.func)


def _mentions(node: ast.AST, name: str) -> bool:
    return any(_last_name(inner) == name for inner in ast.walk(node))


def _targets(node: ast.AST) -> set[str]:
    match node:
        case ast.Assign(targets):
            return {_last_name(target) for target in targets}
        case ast.AugAssign(target) | ast.AnnAssign(target):
            return {_last_name(target)}
    return set()


def _last_name(node: ast.AST) -> str:
    """`c` of `c`, of `a.b.c` and of `a.b.c[d]`."""
    match node:
        case ast.Name(name) | ast.Attribute(_, name):
            return name
        case ast.Subscript(value):
            return _last_name(value)
    return ""
