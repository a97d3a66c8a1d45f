"""Every command of the manual can be parsed, every link leads somewhere, and the table of exceptions fits."""

import re
import shlex

import pytest
from doc_pages import LANGUAGES, ROOT, Command, agrees, anchors_of, begins, blocks_of, links_of, steps_of, table

from jobs.cli.arguments import build_parser

PAGES = table().pages
COMMANDS = [step for page in PAGES for step in steps_of(page) if isinstance(step, Command)]


def simple_commands(text: str) -> list[list[str]]:
    """Words of each program that a line starts, without variables before it and without what it redirects."""
    words = shlex.shlex(text, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in words:
        if set(word) <= set("<>"):
            next(words)
        elif set(word) <= set("&|;()"):
            found.append([])
        elif found[-1] or not re.fullmatch(r"\w+=.*", word):
            found[-1].append(word)
    return [command for command in found if command]


def words_left_over(words: list[str]) -> list[str]:
    """Words that the parser does not know; it ends with a status where it refuses some."""
    try:
        return build_parser().parse_known_args(words)[1]
    except SystemExit as stop:
        # Help and version end it, too.
        return ["the parser refuses it"] if stop.code else []


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_can_be_typed(command):
    for program, *words in simple_commands(command.text):
        if program == "isnet":
            # Settings may stand behind an option.
            extra = words_left_over(words)
            assert all(re.fullmatch(r"[a-z_.]+=.+", word) for word in extra), extra
        if program == "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert words[0] in targets


def test_the_table_has_no_entry_that_fits_nothing():
    whole = table()
    texts = [command.text for command in COMMANDS]
    starts = [*whole.instead, *whole.servers, *whole.status, *whole.nightly, *whole.never]
    assert not [start for start in starts if not any(begins(text, start) for text in texts)]
    shown = "\n".join([*texts, *(block.text for page in PAGES for block in blocks_of(page))])
    assert not [words for words in whole.shorter if words not in shown]
    assert all((ROOT / page).is_file() for page in PAGES)


def test_few_commands_are_never_run():
    whole = table()
    run = [command for command in COMMANDS if whole.reason("never", command) is None]
    # Docker and Kubernetes fill the page for operators.
    elsewhere = [command for command in COMMANDS if command.page != "docs/operate.md"]
    assert len([command for command in run if command in elsewhere]) >= 0.8 * len(elsewhere)
    assert len([command for command in run if whole.reason("nightly", command) is None]) >= 35


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page):
    assert not [block.line for block in blocks_of(page) if block.language not in LANGUAGES]


def markdown_pages() -> list[str]:
    return [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
    ]


@pytest.mark.parametrize("page", markdown_pages())
def test_every_link_leads_somewhere(page):
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_every_page_is_in_the_contents():
    linked = {link.partition("#")[0] for link in links_of("README.md")}
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert pages <= linked


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        (("mine: 40 samples, digest 8d2db04f1611",), "noise\nmine: 7 samples,  digest aaaabbbbcccc\n", True),
        (("mine: 40 samples",), "mine: 40 pictures\n", False),
        (("first", "…", "last"), "first\nsecond\nthird\nlast\n", True),
        (("first", "last"), "first\nsecond\nlast\n", False),
        (("PSNR … dB",), "PSNR 17.2 +- 3 dB\n", True),
    ],
)
def test_outputs_are_compared_by_their_shape(shown, printed, same):
    assert agrees(shown, printed) == same
