"""A condition on settings, as people write it: `train.lr_d <= train.lr_g`, `lr_d < 0.5 * lr_g and gan == "hinge"`.

    Condition.parse("lr_d <= lr_g", known=["train.lr_g", "train.lr_d"]).holds({"train.lr_g": 1e-4, "train.lr_d": 1e-5})

Read into a tree of a few kinds of nodes and walked by hand; nothing is ever evaluated as Python. A name is a dotted
setting, or the end of one where only one setting ends so. Raises `UserError` for what it cannot read.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from trainplane.errors import UserError, nearest

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}
_COMPUTE: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_MOST_CHARACTERS = 500


@dataclass(frozen=True)
class Condition:
    """One condition: its text, and the settings that it names, in full."""

    text: str
    names: frozenset[str]
    _tree: ast.expr
    _full: Mapping[str, str]

    @staticmethod
    def parse(text: str, *, names: Collection[str]) -> Condition:
        """Read `text`; every name in it must be one of the `known` settings, or the unambiguous end of one."""
        if len(text) > _MOST_CHARACTERS:
            raise UserError(f"condition of {len(text)} characters; need at most {_MOST_CHARACTERS}, split it")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise UserError(f"{text!r} is no condition; write one such as 'train.lr_d <= train.lr_g'") from error
        full: dict[str, str] = {}
        _check(tree, text, names, full)
        if not isinstance(tree, (ast.Compare, ast.BoolOp)) and not (
            isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not)
        ):
            raise UserError(f"{text!r} compares nothing; write a condition such as 'train.lr_d <= train.lr_g'")
        return Condition(text, frozenset(full.values()), tree, full)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it is true of these settings. One that is absent or of a kind that cannot be compared: it is not."""
        try:
            return bool(_value(self._tree, values, self._full))
        except (TypeError, ZeroDivisionError, KeyError, OverflowError):
            return False


def _check(node: ast.expr, text: str, known: Collection[str], full: dict[str, str]) -> None:
    """Refuse every kind of node that is not listed here; find the names."""
    dotted = _dotted(node)
    if dotted is not None:
        full[dotted] = _in_full(dotted, text, known)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float, str, type(None))):
        return
    elif isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops):
        for part in (node.left, *node.comparators):
            _check(part, text, known, full)
    elif isinstance(node, ast.BoolOp):
        for part in node.values:
            _check(part, text, known, full)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub, ast.UAdd)):
        _check(node.operand, text, known, full)
    elif isinstance(node, ast.BinOp) and type(node.op) in _COMPUTE:
        _check(node.left, text, known, full)
        _check(node.right, text, known, full)
    elif isinstance(node, (ast.List, ast.Tuple)):
        for part in node.elts:
            _check(part, text, known, full)
    else:
        part_text = ast.unparse(node)
        raise UserError(
            f"condition {text!r}: {part_text!r} cannot be used; need settings, numbers, text, lists, + - * /, "
            "comparisons, and, or, not"
        )


def _dotted(node: ast.expr) -> str | None:
    """`train.lr_g` as it was written; None where this is no name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def _in_full(name: str, text: str, known: Collection[str]) -> str:
    if name in known:
        return name
    ending = sorted(one for one in known if one.endswith(f".{name}"))
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise UserError(f"condition {text!r}: {name!r} may be {' or '.join(ending)}; write it in full")
    near = nearest(name, sorted({*known, *(one.rpartition(".")[2] for one in known)}))
    hint = near if "did you mean" in near else "; write it as section.name"
    raise UserError(f"condition {text!r} names no setting {name!r}{hint}")


def _value(node: ast.expr, values: Mapping[str, Any], full: Mapping[str, str]) -> Any:
    dotted = _dotted(node)
    if dotted is not None:
        return values[full[dotted]]
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Compare():
            return _compared(node, values, full)
        case ast.BoolOp(op=ast.And()):
            return all(_value(part, values, full) for part in node.values)
        case ast.BoolOp():
            return any(_value(part, values, full) for part in node.values)
        case ast.UnaryOp(op=ast.Not()):
            return not _value(node.operand, values, full)
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand, values, full)
        case ast.UnaryOp():
            return +_value(node.operand, values, full)
        case ast.BinOp():
            left, right = _value(node.left, values, full), _value(node.right, values, full)
            if isinstance(left, str) or isinstance(right, str):
                raise TypeError("no arithmetic on text")
            return _COMPUTE[type(node.op)](left, right)
        case ast.List() | ast.Tuple():
            return [_value(part, values, full) for part in node.elts]
    raise AssertionError(f"{ast.dump(node)} was let through by _check")


def _compared(node: ast.Compare, values: Mapping[str, Any], full: Mapping[str, str]) -> bool:
    """`a < b < c` as in mathematics."""
    left = _value(node.left, values, full)
    for op, right_node in zip(node.ops, node.comparators, strict=True):
        right = _value(right_node, values, full)
        if not _COMPARE[type(op)](left, right):
            return False
        left = right
    return True
