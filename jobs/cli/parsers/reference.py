"""Arguments of `isnet config` and `isnet completion`."""

from __future__ import annotations

from typing import Any

from jobs.cli.arg_types import command, group, preset

SHELLS = ("bash", "zsh", "tcsh")


def config(commands: Any) -> None:
    """Adds `isnet config`."""
    actions = group(commands, "config", "presets, and every setting with its meaning, type, unit and value")
    show = command(
        actions,
        "show",
        "commands.config:show",
        "all settings of a preset, with the source of each value; without a preset all presets and layers",
    )
    preset(show, "PRESET", nargs="?")
    certificate = command(
        actions,
        "certificate",
        "commands.certificate:certificate",
        "make certificates and a key that sign filled pictures, for `provenance` of a context",
    )
    certificate.add_argument("folder", metavar="DIR", help="new folder for certificates.pem and key.pem")
    certificate.add_argument("--organisation", required=True, metavar="NAME", help="who readers see as the signer")
    show.add_argument("--markdown", action="store_true", help="print the reference of all settings, docs/settings.md")


def completion(commands: Any) -> None:
    """Adds `isnet completion`."""
    parser = command(
        commands,
        "completion",
        "commands.completion:completion",
        "print a script that completes commands, options, presets and settings",
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
