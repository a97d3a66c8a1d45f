"""Code blocks, commands and links of the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "tests" / "docs" / "commands.yaml"
LANGUAGES = {"bash", "console", "text", "yaml", "toml", "python", "json"}

_FENCE = re.compile(r"^```(\S*)\s*$")
_COMMENT = re.compile(r"\s{2,}#\s.*$|^#\s.*$")
_HEREDOC = re.compile(r"<<'?(\w+)'?")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int  # of its first line, from 1
    language: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    @property
    def file(self) -> str | None:
        """Name of the file that the block shows: its first line is a comment with nothing but a name."""
        match = re.fullmatch(r"# ([\w.-]+\.(?:yaml|toml|py))", self.lines[0].strip())
        return match[1] if match and self.language in ("yaml", "toml", "python") else None


@dataclass(frozen=True)
class Command:
    """One command, as a reader would paste it."""

    page: str
    line: int
    text: str  # without comment
    shown: tuple[str, ...] = ()  # its output on the page

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


@dataclass(frozen=True)
class Table:
    """How commands are run: tests/docs/commands.yaml."""

    pages: list[str]
    instead: dict[str, str]
    shorter: dict[str, str]
    servers: dict[str, str]
    status: dict[str, list[int]]
    nightly: dict[str, str]  # beginnings of commands, and why
    never: dict[str, str]

    def reason(self, kind: str, command: Command) -> str | None:
        """The reason that stands for a command, if there is one."""
        entries: dict[str, str] = getattr(self, kind)
        return next((why for start, why in entries.items() if begins(command.text, start)), None)


def begins(command: str, start: str) -> bool:
    """Whether an entry of the table fits a command: the whole of it, or its beginning before ` …`."""
    return command == start or (start.endswith(" …") and command.startswith(start.removesuffix("…")))


def table() -> Table:
    return Table(**yaml.safe_load(TABLE.read_text(encoding="utf-8")))


def blocks_of(page: str, *, root: Path = ROOT) -> Iterator[Block]:
    language, start, lines = None, 0, []
    for number, line in enumerate((root / page).read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if language is None and fence:
            language, start, lines = fence[1], number + 1, []
        elif fence:
            yield Block(page, start, language, tuple(lines))
            language = None
        elif language is not None:
            lines.append(line)
    assert language is None, f"{page}: a block does not end"


def commands_of(block: Block) -> Iterator[Command]:
    """Commands of a `bash` or `console` block, continued lines and here-documents joined."""
    lines = list(enumerate(block.lines, start=block.line))
    prompt = "$ " if block.language == "console" else ""
    while lines:
        number, line = lines.pop(0)
        text = line.removeprefix(prompt)
        if not text.strip() or (prompt and text == line):
            assert not prompt or not line.strip(), f"{block.page}:{number}: output without a command"
            continue
        while text.endswith("\\"):
            text = text[:-1].rstrip() + " " + lines.pop(0)[1].strip()
        if heredoc := _HEREDOC.search(text):
            while not text.endswith(f"\n{heredoc[1]}"):
                text += "\n" + lines.pop(0)[1]
        else:
            text = _COMMENT.sub("", text).strip()
        shown = []
        while prompt and lines and not lines[0][1].startswith(prompt):
            shown.append(lines.pop(0)[1])
        if text:
            yield Command(block.page, number, text, tuple(shown))


def steps_of(page: str, *, root: Path = ROOT) -> Iterator[Command | Block]:
    """Commands, scripts and shown files of a page, in order."""
    for block in blocks_of(page, root=root):
        if block.language in ("bash", "console"):
            yield from commands_of(block)
        elif block.file is not None or block.language == "python":
            yield block


def agrees(shown: tuple[str, ...], printed: str) -> bool:
    """Compares a page's output with the real one: numbers, digests and spaces may differ, and `…` stands for anything.

    A line of `…` alone stands for any lines.
    """
    pattern = "".join("(?:.*\n)*?" if line.strip() == "…" else _line_pattern(line) + "\n" for line in shown)
    lines = "".join(f"{_shape(line)}\n" for line in printed.splitlines() if line.strip())
    return re.search(f"^{pattern}", lines, re.MULTILINE) is not None


def _line_pattern(line: str) -> str:
    return ".*".join(re.escape(_shape(part)) for part in line.split("…")) if line.strip() else ""


def _shape(line: str) -> str:
    line = re.sub(r"\b[0-9a-f]{7,64}\b|[-−]?\d[\d,.]*", "0", line)
    return re.sub(r"\s+", " ", re.sub(r"[─━-]{3,}", "---", line)).strip()


def links_of(page: str, *, root: Path = ROOT) -> Iterator[str]:
    """Targets of links and pictures that lead into the repository."""
    text = re.sub(r"```.*?```", "", (root / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            yield target


def anchors_of(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
