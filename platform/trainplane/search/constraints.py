"""Conditions on settings, such as `train.lr_d <= train.lr_g`.

    condition = Condition.parse('lr_d < 0.5 * lr_g and gan == "hinge"', names=["train.lr_g", "train.lr_d", "loss.gan"])
    condition.holds({"train.lr_g": 1e-4, "train.lr_d": 1e-5, "loss.gan": "hinge"})

The text becomes a tree of a few kinds of nodes, which this module evaluates; nothing is run as Python. A name is a
dotted setting, or the unambiguous end of one.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from trainplane.errors import UserError, nearest

# Allowed comparisons.
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda value, values: value in values,
    ast.NotIn: lambda value, values: value not in values,
}
# Allowed arithmetic. Powers are missing on purpose: their results may be huge.
_COMPUTE: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
# Longer texts could exhaust the stack of the parser.
_MAX_CHARACTERS = 500


@dataclass(frozen=True)
class Condition:
    """Parsed condition on settings."""

    text: str  # The condition as written
    names: frozenset[str]  # Full names of its settings
    _tree: ast.expr
    _full_names: Mapping[str, str]

    @staticmethod
    def parse(text: str, *, names: Collection[str]) -> Condition:
        """Parses a condition.

        A name in `text` is one of `names`, or the unambiguous end of one. Raises `UserError` if the text is no
        condition, or names an unknown setting.
        """
        if len(text) > _MAX_CHARACTERS:
            raise UserError(f"condition of {len(text)} characters; need at most {_MAX_CHARACTERS}, split it")
        try:
            # Python's parser reads the syntax; its tree is never compiled.
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise UserError(f"{text!r} is no condition; write one such as 'train.lr_d <= train.lr_g'") from error
        full_names: dict[str, str] = {}
        _check(tree, text, names, full_names)
        # A plain setting or number is no condition.
        if not isinstance(tree, (ast.Compare, ast.BoolOp)) and not (
            isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not)
        ):
            raise UserError(f"{text!r} compares nothing; write a condition such as 'train.lr_d <= train.lr_g'")
        return Condition(text, frozenset(full_names.values()), tree, full_names)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Tests the condition on settings.

        It does not hold where a setting is absent, or of a kind that cannot be compared.
        """
        try:
            return bool(_value(self._tree, values, self._full_names))
        except (TypeError, ZeroDivisionError, KeyError, OverflowError):
            return False


def _check(node: ast.expr, text: str, names: Collection[str], full_names: dict[str, str]) -> None:
    # Refuses every kind of node that is not listed here. Adds the settings in `node` to `full_names`.
    dotted = _dotted(node)
    if dotted is not None:
        full_names[dotted] = _full_name(dotted, text, names)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float, str, type(None))):
        return
    elif isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops):
        for part in (node.left, *node.comparators):
            _check(part, text, names, full_names)
    elif isinstance(node, ast.BoolOp):
        for part in node.values:
            _check(part, text, names, full_names)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub, ast.UAdd)):
        _check(node.operand, text, names, full_names)
    elif isinstance(node, ast.BinOp) and type(node.op) in _COMPUTE:
        _check(node.left, text, names, full_names)
        _check(node.right, text, names, full_names)
    elif isinstance(node, (ast.List, ast.Tuple)):
        for part in node.elts:
            _check(part, text, names, full_names)
    else:
        part_text = ast.unparse(node)
        raise UserError(
            f"condition {text!r}: {part_text!r} cannot be used; need settings, numbers, text, lists, + - * /, "
            "comparisons, and, or, not"
        )


def _dotted(node: ast.expr) -> str | None:
    """Name such as `train.lr_g`; None for any other node."""
    # Attribute nodes hold a dotted name from right to left.
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def _full_name(name: str, text: str, names: Collection[str]) -> str:
    """Completes the end of a setting's name."""
    if name in names:
        return name
    matches = sorted(setting for setting in names if setting.endswith(f".{name}"))
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(f"condition {text!r}: {name!r} may be {' or '.join(matches)}; write it in full")
    # Suggest a full name or the last part of one.
    near = nearest(name, sorted({*names, *(setting.rpartition(".")[2] for setting in names)}))
    hint = near if "did you mean" in near else "; write it as section.name"
    raise UserError(f"condition {text!r} names no setting {name!r}{hint}")


def _value(node: ast.expr, values: Mapping[str, Any], full_names: Mapping[str, str]) -> Any:
    """Evaluates a node that `_check` has allowed."""
    dotted = _dotted(node)
    if dotted is not None:
        return values[full_names[dotted]]
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Compare():
            return _compare(node, values, full_names)
        case ast.BoolOp(op=ast.And()):
            return all(_value(part, values, full_names) for part in node.values)
        case ast.BoolOp():
            return any(_value(part, values, full_names) for part in node.values)
        case ast.UnaryOp(op=ast.Not()):
            return not _value(node.operand, values, full_names)
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand, values, full_names)
        case ast.UnaryOp():
            return +_value(node.operand, values, full_names)
        case ast.BinOp():
            left, right = _value(node.left, values, full_names), _value(node.right, values, full_names)
            # Python would join texts, or repeat one a billion times.
            if isinstance(left, str) or isinstance(right, str):
                raise TypeError("no arithmetic on text")
            return _COMPUTE[type(node.op)](left, right)
        case ast.List() | ast.Tuple():
            return [_value(part, values, full_names) for part in node.elts]
    raise AssertionError(f"_check allowed {ast.dump(node)}")


def _compare(node: ast.Compare, values: Mapping[str, Any], full_names: Mapping[str, str]) -> bool:
    """Evaluates `a < b < c` as in mathematics."""
    left = _value(node.left, values, full_names)
    for op, right_node in zip(node.ops, node.comparators, strict=True):
        right = _value(right_node, values, full_names)
        if not _COMPARE[type(op)](left, right):
            return False
        left = right
    return True
