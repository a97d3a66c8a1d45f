"""Command lines in messages, complete enough to be pasted."""

from __future__ import annotations

import os
import shlex

from trainplane.errors import CLI

# The context that was named by `--context`. A variable, because processes of Ray print such lines, too. A context that
# the environment or isnet.toml chose is chosen for the pasted line again.
CONTEXT_VARIABLE = "TRAINPLANE_CONTEXT_OPTION"
# Commands that start servers of their own.
_WITHOUT_CONTEXT = ("stack", "bench")


def command_line(*words: str) -> str:
    """Command line of these words, with the named context.

    A word in capitals stands for what the user has to fill in.
    """
    context = os.environ.get(CONTEXT_VARIABLE)
    if not context or words[0] in _WITHOUT_CONTEXT:
        return shlex.join([CLI, *words])
    # Behind `submit` come the words of another command, which travel with the job.
    first, rest = (words[:1], words[1:]) if words[0] == "submit" else (words, ())
    return shlex.join([CLI, *first, "--context", context, *rest])
