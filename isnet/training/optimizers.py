"""Groups parameters by rate, and freezes parts.

A pattern names parameters by their path behind the network's name, such as `generator.head.weight`. It fits a path or
the beginning of one up to a dot: `generator.stages.0` means all of that stage. `*`, `?` and `[…]` work as in a shell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from isnet.errors import InputError


def parameter_groups(
    name: str,
    network: nn.Module,
    *,
    rate: float,
    freeze: Sequence[str] = (),
    rate_factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Groups parameters by rate, and freezes parts.

    Args:
        name: Of the network, the first part of its parameters' paths.
        network: Parameters that a pattern of `freeze` fits get no gradients from now on.
        rate: Learning rate of parameters without a factor.
        freeze: Patterns of parameters that keep their values.
        rate_factors: Pattern -> factor of the rate. The last pattern that fits counts.

    Returns:
        Groups for any optimiser of torch, each with its own `lr`.

    Raises:
        InputError: All of the network is frozen.
    """
    factors = dict(rate_factors or {})
    # Parameters by factor, in the order of the network; frozen ones stay in, where they have neither gradient nor
    # moments.
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for path, parameter in network.named_parameters(prefix=name):
        parameter.requires_grad_(parameter.requires_grad and not any(fits(pattern, path) for pattern in freeze))
        factor = [value for pattern, value in factors.items() if fits(pattern, path)]
        groups.setdefault(factor[-1] if factor else 1.0, []).append(parameter)
    if freeze and not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError(f"freeze={list(freeze)} leaves nothing of {name} to train; freeze parts of it")
    return [{"params": parameters, "lr": rate * factor} for factor, parameters in groups.items() if parameters]


def fits(pattern: str, path: str) -> bool:
    """True if a pattern fits a path or its beginning."""
    parts = path.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def check_patterns(setting: str, patterns: Iterable[str], networks: Mapping[str, nn.Module]) -> None:
    """Raises `InputError` for a pattern that fits no parameter.

    Args:
        setting: Name of the setting, for the message.
        patterns: Of `parameter_groups`.
        networks: The networks that have optimisers, by name.
    """
    paths = [path for name, network in networks.items() for path, _ in network.named_parameters(prefix=name)]
    for pattern in patterns:
        if not any(fits(pattern, path) for path in paths):
            parts = sorted({".".join(path.split(".")[:2]) for path in paths})
            raise InputError(
                f"{setting}={pattern!r} fits no parameter; need a path or its beginning, such as "
                f"{', '.join(parts)}; `*` stands for any characters"
            )
