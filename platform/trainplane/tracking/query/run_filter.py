"""Conditions on metrics, settings and facts of runs.

    condition = RunFilter.parse("val/psnr > 24 and status = FINISHED", names=["val/psnr", "status"])
    condition.holds({"val/psnr": 25.0, "status": "FINISHED"})

Conditions of searches do the work (`trainplane.search.constraints`); here names of metrics, which have signs in them,
become names that these can read. A word that is compared with a name needs no quotes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from trainplane.errors import UserError, nearest
from trainplane.search.constraints import Condition

# Signs within a name have no spaces around them: `val/psnr_10-20`.
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'[^']*'|\"[^\"]*\")|(?P<number>\.?\d[\w.]*(?:(?<=[eE])[+-]\d+)?)|"
    r"(?P<name>[A-Za-z_][\w.]*(?:[/-][\w.]+)*)|(?P<sign><=|>=|!=|==|[=<>()\[\],+*/-]))"
)
_WORDS = {"and": "and", "or": "or", "not": "not", "in": "in", "true": "True", "false": "False", "none": "None"}


@dataclass(frozen=True)
class RunFilter:
    """Parsed condition on what is known of a run."""

    names: tuple[str, ...]  # Names in it, in their order
    _condition: Condition
    _plain: Mapping[str, str]  # Name by the one that stands for it

    @staticmethod
    def parse(text: str, *, names: Collection[str]) -> RunFilter:
        """Parses a condition.

        Args:
            text: The condition; `=` compares, as `==` does.
            names: What it may name: metrics, settings and facts of runs. The end of a setting's name will do, where it
                is unambiguous.

        Raises:
            UserError: The text is no condition, or has an unknown name.
        """
        words: list[str] = []
        plain: dict[str, str] = {}
        for kind, token in _tokens(text):
            if kind == "sign":
                words.append("==" if token == "=" else token)
            elif kind != "name":
                words.append(token)
            elif token.lower() in _WORDS:
                words.append(_WORDS[token.lower()])
            elif token not in names and _full_name(token, names) is None and words[-1:] in [["=="], ["!="]]:
                words.append(repr(token))
            else:
                full = complete_name(token, names)
                stand_in = f"name_{len(plain)}"
                plain[stand_in] = full
                words.append(stand_in)
        try:
            condition = Condition.parse(" ".join(words), names=list(plain))
        except UserError as error:
            raise UserError(
                f"{text!r} is no condition; write one such as 'val/psnr > 24 and model.blocks = 4'"
            ) from error
        return RunFilter(tuple(dict.fromkeys(plain.values())), condition, plain)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Tests the condition; false where a name has no value."""
        return self._condition.holds({key: values[name] for key, name in self._plain.items() if name in values})


def complete_name(name: str, names: Collection[str]) -> str:
    """Completes the end of a setting's name.

    Raises:
        UserError: No name fits, or several do.
    """
    if (full := _full_name(name, names)) is not None:
        return full
    fitting = _ends(name, names)
    if fitting:
        raise UserError(f"{name!r} may be {' or '.join(fitting)}; write it in full")
    hint = nearest(name, sorted({*names, *(each.rpartition(".")[2] for each in names)}))
    # A list of hundreds of names helps nobody.
    hint = hint if "did you mean" in hint else "; `runs show RUN` has the names of a run's settings and metrics"
    raise UserError(f"no run here has {name!r}{hint}")


def _full_name(name: str, names: Collection[str]) -> str | None:
    if name in names:
        return name
    fitting = _ends(name, names)
    return fitting[0] if len(fitting) == 1 else None


def _ends(name: str, names: Collection[str]) -> list[str]:
    return sorted(each for each in names if each.endswith(f".{name}"))


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, position = [], 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise UserError(
                f"{text!r}: {text[position:].strip()[:20]!r} cannot be read; need names, numbers, text in quotes, "
                "= != < <= > >=, in, and, or, not, ( )"
            )
        tokens.append((match.lastgroup, match[match.lastgroup]))
        position = match.end()
    return tokens
