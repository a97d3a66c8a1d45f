"""Measures how the source reads: `python tests/support/prose.py [FILE or FOLDER ...]` lists what to improve.

Rules: a docstring's first paragraph has at most ten words and begins with a verb or a noun; no variable is a bare
participle; no two classes share a name; dense code has comments that give a step or a reason.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("isnet", "platform/trainplane", "jobs")
MAX_WORDS = 10
MAX_LINES = 400
# Comments in 100 lines of code.
MIN_COMMENTS = 6.5
_RELATIVE = re.compile(
    r"(PURE\b|What|Which|Who|Whose|Whether|Whoever|Whatever|Where|When|How|As many|As much|That|If|Is|Are)\b", re.I
)
_QUAINT = re.compile(
    r"\b(whoever|whatever|whichever|nobody|somebody|anybody|anew|reckon\w*|thereof|wherein|whereof|hitherto|of its own"
    r" accord|without a word)\b",
    re.I,
)
PARTICIPLES = """
    found made told taken given known wanted seen asked kept gone held heard said sent put shown one other both lost
    earned tried gotten begun began brought thought meant dropped
"""
_PARTICIPLES = frozenset(PARTICIPLES.split())


@dataclass(frozen=True)
class Offence:
    """One place that reads badly."""

    file: Path
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule}: {self.text}"


@dataclass
class Measured:
    """Counts over some files, and every offence."""

    offences: list[Offence] = field(default_factory=list)
    first_words: list[int] = field(default_factory=list)
    functions: int = 0
    code_lines: int = 0
    comments: int = 0

    def count(self, rule: str) -> int:
        """Number of offences against one rule."""
        return sum(offence.rule == rule for offence in self.offences)


def python_files(paths: Sequence[str]) -> list[Path]:
    """Sorted Python files below `paths`, relative to the repository's root."""
    files: list[Path] = []
    for path in paths:
        start = ROOT / path
        files += [start] if start.is_file() else sorted(start.rglob("*.py"))
    return [file.relative_to(ROOT) for file in files]


def measure(files: Sequence[Path]) -> Measured:
    """Measures all files."""
    result = Measured()
    classes: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        source = (ROOT / file).read_text(encoding="utf-8")
        tree = ast.parse(source)
        code, comments = _count_lines(source)
        result.code_lines += code
        result.comments += comments
        if (length := source.count("\n")) > MAX_LINES:
            result.offences.append(Offence(file, 1, "long module", f"{length} lines"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(file)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                result.functions += 1
                result.offences += _participles(file, node)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                result.offences += _docstring(file, node, result)
    for name, places in classes.items():
        if len(places) > 1 and not name.startswith("_"):
            where = ", ".join(map(str, places))
            result.offences.append(Offence(places[0], 1, "class name twice", f"{name} in {where}"))
    return result


def _docstring(file: Path, node: ast.AST, result: Measured) -> Iterator[Offence]:
    """Yields what is wrong with the first paragraph of one docstring."""
    text = ast.get_docstring(node)  # type: ignore[arg-type]
    if not text:
        return
    line = getattr(node, "lineno", 1)
    first = text.split("\n\n")[0]
    words = len(first.split())
    result.first_words.append(words)
    if words > MAX_WORDS:
        yield Offence(file, line, "long first sentence", f"{words} words: {first[:90]!r}")
    if _RELATIVE.match(text):
        yield Offence(file, line, "relative opening", repr(first[:90]))
    if match := _QUAINT.search(text):
        yield Offence(file, line, "quaint word", match.group())


def _participles(file: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Offence]:
    """Yields one offence where a function names a variable by a bare participle."""
    stored = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    if bad := stored & _PARTICIPLES:
        yield Offence(file, node.lineno, "participle", f"{node.name} names {', '.join(sorted(bad))}")


def _count_lines(source: str) -> tuple[int, int]:
    """Returns lines of code and comments."""
    code, comments = set(), 0
    layout = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments += 1
        elif token.type not in layout:
            code.add(token.start[0])
    return len(code), comments


def main(paths: Sequence[str]) -> int:
    """Prints every offence, then the counts; 1 where there is any."""
    result = measure(python_files(paths or SOURCES))
    for offence in result.offences:
        print(offence)
    print(
        f"{len(result.offences)} offences, first paragraph {statistics.median(result.first_words or [0])} words at the "
        f"median, {100 * result.comments / max(1, result.code_lines):.1f} comments in 100 lines of code"
    )
    return 1 if result.offences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
