"""The page's files as they are: size, what they name, labels for screen readers."""

import re
from html.parser import HTMLParser

import pytest

from jobs.serving.page_files import FOLDER, page_file
from jobs.serving.problems import HttpProblem

MOST_BYTES = 60_000
FILES = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.iterdir()}
SCRIPTS = {name: text for name, text in FILES.items() if name.endswith(".js")}


class Element:
    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent, self.text = tag, dict(attributes), parent, ""

    def is_in(self, tag):
        return self.parent is not None and (self.parent.tag == tag or self.parent.is_in(tag))


class Page(HTMLParser):
    """Elements of index.html, each with its attributes and all text in it."""

    LEAVES = ("meta", "link", "img", "input", "path", "circle")

    def __init__(self):
        super().__init__()
        self.elements, self.open = [], [None]
        self.feed(FILES["index.html"])

    def handle_starttag(self, tag, attributes):
        element = Element(tag, attributes, self.open[-1])
        self.elements.append(element)
        if tag not in self.LEAVES:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append(Element(tag, attributes, self.open[-1]))

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        for element in self.open[1:]:
            element.text += data.strip()


PAGE = Page()
IDS = [element.attributes["id"] for element in PAGE.elements if "id" in element.attributes]


def test_the_whole_page_is_at_most_60_kilobytes_as_it_is_sent():
    sent = {name: page_file(name, "gzip, deflate, br") for name in FILES}
    assert {answer.headers["content-encoding"] for answer in sent.values()} == {"gzip"}
    assert sum(len(answer.body) for answer in sent.values()) <= MOST_BYTES


def test_whoever_takes_no_gzip_gets_the_files_themselves():
    answer = page_file("main.js", "identity")
    assert answer.body.decode() == FILES["main.js"]
    assert "content-encoding" not in answer.headers
    assert answer.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize("name", ["../app.py", "app.py", "", "index.html/", "main.js\0"])
def test_no_name_leads_out_of_the_folder(name):
    with pytest.raises(HttpProblem):
        page_file(name, "gzip")


def test_nothing_comes_from_another_host():
    # The namespace of SVG is a name, and fetched by nobody.
    addresses = {name: re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text) for name, text in FILES.items()}
    assert {address for found in addresses.values() for address in found} <= {"http://www.w3.org/2000/svg"}


def test_nothing_is_inline():
    for element in PAGE.elements:
        assert "style" not in element.attributes
        assert not [name for name in element.attributes if name.startswith("on")]
        assert element.tag != "style"
        assert element.tag != "script" or ("src" in element.attributes and not element.text)


def test_every_file_that_is_named_is_there_and_every_file_is_named():
    named = {
        value.removeprefix("page/")
        for element in PAGE.elements
        for name, value in element.attributes.items()
        if name in ("src", "href")
    }
    for text in SCRIPTS.values():
        named |= {name.removeprefix("./") for name in re.findall(r"from '([^']+)'", text)}
    assert named | {"index.html"} == set(FILES)


def test_every_element_that_scripts_name_is_there_once():
    named = {name for text in SCRIPTS.values() for name in re.findall(r"(?:\$|getElementById|\bon)\('([\w-]+)'", text)}
    assert len(named) > 50
    assert not named - set(IDS)
    assert len(IDS) == len(set(IDS))


def test_everything_that_is_operated_has_a_name_for_screen_readers():
    labelled = {element.attributes.get("for") for element in PAGE.elements if element.tag == "label"}
    nameless = []
    for element in PAGE.elements:
        has = element.attributes
        if element.tag == "button":
            is_named = bool(element.text or has.get("aria-label"))
        elif element.tag in ("input", "select", "progress") and "hidden" not in has:
            is_named = has.get("id") in labelled or element.is_in("label") or "aria-label" in has
        else:
            continue
        if not is_named:
            nameless.append(has)
    assert not nameless
    assert [e.attributes["aria-live"] for e in PAGE.elements if e.attributes.get("role") == "status"] == ["polite"]
