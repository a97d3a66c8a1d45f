"""`isnet completion SHELL`: prints a completion script.

The script is static: completing a word starts no Python. Presets and settings are those of this installation.
"""

from __future__ import annotations

import argparse

import shtab

from jobs.cli.arguments import build_parser
from jobs.cli.main import emit
from jobs.cli.parser import Parser
from jobs.config import ISNetConfig
from jobs.presets import SEARCH, layer_names, preset_names
from trainplane.config.schema import settings
from trainplane.search.config import SearchFile

# Bash would put a space behind `train.steps=`.
_BASH_END = """
_isnet_complete() {
  _shtab_isnet "$@"
  if [[ ${#COMPREPLY[@]} = 1 && ${COMPREPLY[0]} == *= ]]; then
    compopt -o nospace 2>/dev/null || :
  fi
}
complete -o bashdefault -o default -F _isnet_complete isnet
"""


def completion(args: argparse.Namespace) -> int:
    """Prints the script."""
    script = completion_script(args.shell)
    emit(args, {"shell": args.shell, "script": script}, script)
    return 0


def completion_script(shell: str) -> str:
    """Completion script of a shell."""
    parser = build_parser()
    words = _words()
    _mark(parser, words)
    # Words stand in lines: shtab's script splits at line ends alone.
    functions = "\n".join(
        "_isnet_{}() {{ compgen -W $'{}' -- \"$1\"; }}".format(kind, r"\n".join(listed))
        for kind, listed in words.items()
    )
    zsh = "\n".join(
        f"_isnet_{kind}() {{ compadd -S '' -- {' '.join(listed)}; _files }}" for kind, listed in words.items()
    )
    script: str = shtab.complete(parser, shell=shell, preamble={"bash": functions, "zsh": zsh})
    return script + _BASH_END if shell == "bash" else script


def _words() -> dict[str, list[str]]:
    """Words that complete each kind of argument."""
    with_layers = [f"{name}+{layer}" for name in preset_names() for layer in layer_names()]
    declared = [*settings(ISNetConfig), *settings(SearchFile)]
    searches, overrides = ["show", "list", *preset_names(SEARCH)], [f"{setting.name}=" for setting in declared]
    return {
        "presets": [*preset_names(), *with_layers],
        "searches": searches,
        "settings": overrides,
        # Behind `tune show` stands a search.
        "searches_or_settings": [*searches, *overrides],
    }


def _mark(parser: Parser, words: dict[str, list[str]]) -> None:
    """Names the completing function of each argument."""
    for action in parser.arguments:
        kind = getattr(action, "completed_by", None)
        if kind is not None:
            tcsh = " ".join(words[kind])
            action.complete = {"bash": f"_isnet_{kind}", "zsh": f"_isnet_{kind}", "tcsh": f"({tcsh})"}  # type: ignore[attr-defined]
    for child in parser.actions.values():
        _mark(child, words)
