"""The page in a real browser, before the real server."""

import io
from pathlib import Path

import numpy as np
import pytest
from browser import chromium, isnet_serve
from PIL import Image

from isnet.inference.edges import grown
from jobs.serving.page_files import FOLDER

pytestmark = pytest.mark.real

PATIENCE_MS = 120_000


@pytest.fixture(scope="module")
def server(browser, registered_once):
    """`isnet serve` over two versions, version 1 in production; not started where there is no browser."""
    with isnet_serve(registered_once.folder / "home", "photo", "--candidate", "2") as announced:
        yield announced


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser):
    """An empty page that fails the test for an error of a script."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    faults = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    # What the policy blocks, too.
    opened.on("console", lambda line: faults.append(line.text) if "Content Security" in line.text else None)
    yield opened
    context.close()
    assert not faults


def noise(folder, height, width, mode="RGB"):
    """A photo of soft noise; returns its file and pixels."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(60, 160, (height // 20 + 1, width // 20 + 1, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).copy()
    if mode == "I;16":
        pixels = (pixels[..., 0].astype(np.uint16) << 8) | rng.integers(0, 256, (height, width), dtype=np.uint16)
    return folder / "photo.png", pixels


def open_photo(page, path, pixels):
    Image.fromarray(pixels).save(path, compress_level=1)
    page.set_input_files("#file", path)
    page.wait_for_selector("body[data-state=edit]")


def drag(page, start, end):
    page.mouse.move(*map(float, start))
    page.mouse.down()
    page.mouse.move(*map(float, end), steps=5)
    page.mouse.up()


def centre(page):
    box = page.locator("#stage").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def saved(page, act):
    """The picture that an action downloads, with its file's name."""
    with page.expect_download() as download:
        act()
    data = Path(download.value.path()).read_bytes()
    return np.asarray(Image.open(io.BytesIO(data))), download.value.suggested_filename


def test_a_visitor_opens_paints_fills_votes_and_downloads(page, server, tmp_path):
    path, pixels = noise(tmp_path, 120, 160, "I;16")
    # What to do is said, and there are photos to try.
    page.goto(server["page"])
    assert "Choose a photo" in page.inner_text("#empty")
    page.wait_for_selector("#samples img")
    # Opened and painted: the status says so to those who do not see it.
    open_photo(page, path, pixels)
    x, y = centre(page)
    drag(page, (x - 60, y - 30), (x + 40, y + 20))
    assert "The hole is" in page.inner_text("#status")
    mask, name = saved(page, lambda: page.keyboard.press("s"))
    assert name == "photo-mask.png"
    # Two versions, blind: nothing on the page says which is which.
    # The candidate is opened after production.
    page.wait_for_selector("#compare-with:not([hidden])")
    page.locator("#compare").check()
    page.click("#fill")
    page.wait_for_selector("body[data-state=review]")
    assert page.is_hidden("#facts")
    assert "ersion 1" not in page.inner_text("#review")
    for mode in page.locator("#modes button").all():
        mode.click()
        assert mode.get_attribute("aria-pressed") == "true"
    # The vote reveals both, with gates.
    page.keyboard.press("2")
    page.wait_for_selector("#facts .card")
    facts = page.inner_text("#facts")
    assert all(word in facts for word in ("Version 1", "Version 2", "production", "candidate", "1 passed"))
    assert "Recorded" in page.inner_text("#status")
    # The files have the photo's own depth, and known pixels as they were.
    filled = [saved(page, button.click) for button in page.locator("#downloads button").all()]
    assert [name for _, name in filled] == ["photo-filled-A.png", "photo-filled-B.png"]
    for picture, _ in filled:
        assert picture.dtype == np.uint16
        assert np.array_equal(picture[mask == 0], pixels[mask == 0])
        assert (picture[mask > 0] != pixels[mask > 0]).mean() > 0.9
    assert not np.array_equal(filled[0][0], filled[1][0])


def test_a_box_drawn_at_6_times_lands_on_its_native_pixels(page, server, tmp_path):
    # On 12 megapixels a red rectangle, which is found on the screen by its colour alone.
    path, pixels = noise(tmp_path, 3000, 4000)
    top, bottom, left, right = 1811, 1850, 2503, 2557
    pixels[top:bottom, left:right] = (255, 0, 0)
    page.goto(server["page"])
    open_photo(page, path, pixels)

    def seen():
        page.wait_for_timeout(150)
        shot = np.asarray(Image.open(io.BytesIO(page.locator("#stage").screenshot())).convert("RGB")).astype(int)
        rows, columns = np.nonzero((shot[..., 0] > 230) & (shot[..., 1] < 60) & (shot[..., 2] < 60))
        box = page.locator("#stage").bounding_box()
        return (columns.min() + box["x"], rows.min() + box["y"]), (columns.max() + box["x"], rows.max() + box["y"])

    page.mouse.move(*map(float, np.mean(seen(), axis=0)))
    page.keyboard.press("9")
    for _ in range(5):
        page.keyboard.press("+")
    # Drawn with the next frame, which a busy machine delays.
    page.wait_for_function("document.querySelector('#zoom-fit').innerText === '600 %'")
    # From within the first pixel, six wide on the screen, to within the last one.
    (x0, y0), (x1, y1) = seen()
    page.keyboard.press("r")
    drag(page, (x0 + 2, y0 + 2), (x1 - 1, y1 - 1))
    mask, _ = saved(page, lambda: page.keyboard.press("s"))
    expected = np.zeros((3000, 4000), np.uint8)
    expected[top:bottom, left:right] = 255
    assert np.array_equal(mask, expected)


def test_a_mask_comes_out_as_it_went_in(page, server, tmp_path):
    path, pixels = noise(tmp_path, 301, 203)
    page.goto(server["page"])
    open_photo(page, path, pixels)
    hole = np.random.default_rng(1).random((301, 203)) > 0.6
    white = Image.fromarray(hole.astype(np.uint8) * 255)
    for mode in ("L", "1", "RGB"):
        white.convert(mode, dither=Image.Dither.NONE).save(tmp_path / f"{mode}.png")
        page.keyboard.press("Delete")
        page.set_input_files("#mask-file", tmp_path / f"{mode}.png")
        page.wait_for_selector('#hole:has-text("%")')
        out, _ = saved(page, lambda: page.keyboard.press("s"))
        assert np.array_equal(out, hole * np.uint8(255)), mode


def test_mistakes_are_said_on_the_page_which_goes_on(page, server, tmp_path):
    path, pixels = noise(tmp_path, 60, 80)
    (tmp_path / "program.png").write_bytes(b"\x7fELF" + bytes(2000))
    Image.new("L", (20, 10), 255).save(tmp_path / "small.png")

    def sentence():
        page.wait_for_selector("#alert:not([hidden])")
        words = page.inner_text("#alert p")
        page.keyboard.press("Escape")
        assert page.is_hidden("#alert")
        return words

    page.goto(server["page"])
    page.wait_for_selector("#samples img")
    page.set_input_files("#file", tmp_path / "program.png")
    assert "Not a picture" in sentence()
    open_photo(page, path, pixels)
    page.set_input_files("#mask-file", tmp_path / "small.png")
    assert sentence() == "The mask is 20 × 10 and the photo 80 × 60; need the same size. Draw the mask on this photo."
    page.keyboard.press("Enter")
    assert "Nothing is painted" in sentence()
    page.keyboard.press("i")
    page.keyboard.press("Enter")
    assert "nothing but hole" in sentence()
    # All by keys: the hole is emptied, painted from the middle, and filled.
    page.keyboard.press("Delete")
    for key in ("d", "ArrowRight", "ArrowRight", "ArrowDown", "d", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("body[data-state=review]")
    # Undone and done again by fill and by stroke.
    for state, hole in (("edit", "%"), ("edit", "nothing")):
        page.keyboard.press("Control+z")
        page.wait_for_selector(f"body[data-state={state}]")
        assert hole in page.inner_text("#hole")
    for state in ("edit", "review"):
        page.keyboard.press("Control+y")
        page.wait_for_selector(f"body[data-state={state}]")


_DRAW = """async ([width, height, hole, radius, strokes]) => {
  const { Mask } = await import('http://page.test/mask.js');
  const make = (...actions) => {
    const mask = new Mask(width, height);
    for (const action of actions) {
      action(mask);
      mask.commit();
    }
    return { pixels: [...mask.pixels], count: mask.count };
  };
  const load = (mask) => mask.load(Uint8Array.from(hole));
  const grow = (mask) => mask.grow(radius);
  return [
    make(load, grow),
    make(load, (mask) => mask.grow(radius, 0)),
    make(load, (mask) => { grow(mask); mask.toggle(mask.commit(), -1); }),
    make(...strokes.map(([from, to]) => (mask) => mask.piece(from, to, 3, 1))),
    make((mask) => strokes.toReversed().forEach(([from, to]) => mask.piece(to, from, 3, 1))),
    make((mask) => mask.polygon([[2, 2], [30, 2], [30, 30], [10, 30], [10, 10], [40, 10]], 1)),
    make(
      (mask) => { mask.rectangle([10, 5], [40, 25], 1); mask.rectangle([11, 6], [39, 24], 0); },
      (mask) => mask.flood([20, 12], 1),
    ),
  ];
}"""


def test_shapes_of_the_mask_are_those_of_the_command_line(page):
    # The module alone, from the files: no server is needed.
    page.route(
        "http://page.test/**",
        lambda route: route.fulfill(
            body=(FOLDER / route.request.url.rpartition("/")[2]).read_text() if ".js" in route.request.url else "",
            content_type="text/javascript" if ".js" in route.request.url else "text/html",
        ),
    )
    page.goto("http://page.test/")
    rng = np.random.default_rng(2)
    hole = np.kron(rng.random((7, 9)) > 0.7, np.ones((5, 6), bool))
    radius = 2
    strokes = [[[3, 3], [40, 20]], [[40, 20], [41.5, 30.2]]]
    answers = page.evaluate(_DRAW, [54, 35, hole.ravel().astype(int).tolist(), radius, strokes])
    shapes = [np.array(answer["pixels"], bool).reshape(35, 54) for answer in answers]
    wider, smaller, undone, forth, back, loops, ring = shapes
    assert np.array_equal(wider, grown(hole, radius))
    assert np.array_equal(smaller, ~grown(~hole, radius))
    assert np.array_equal(undone, hole)
    assert [answer["count"] for answer in answers] == [shape.sum() for shape in shapes]
    # A stroke is the same drawn in pieces, from either end.
    assert np.array_equal(forth, back)
    assert np.array_equal(ring, np.pad(np.ones((21, 31), bool), ((5, 9), (10, 13))))
    # A line that crosses itself fills all of its loops.
    assert loops[3, 20]
    assert loops[20, 20]
    assert not loops[32, 20]
