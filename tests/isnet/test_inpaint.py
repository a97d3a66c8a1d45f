"""Any size and kind in, the same out; known pixels bit-identical; tiles; what is refused."""

import io
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import isnet
from isnet.errors import InputError
from isnet.images.photo import read_photo
from isnet.images.pixels import apply_orientation
from isnet.inference.classical import classical
from isnet.inference.tiles import blend_weights, padded_length, tiles
from isnet.inpaint import MaskRules, Predictor, inpaint
from isnet.masks import box, irregular

torch.manual_seed(0)
NET = isnet.build("isnet", blocks=1, width=4, init_std=0.1).eval()
MODEL = Predictor(NET)
RNG = np.random.default_rng(0)


class Surroundings(nn.Module):
    """Answers with the mean of the known pixels around each place; sides must be multiples of 8."""

    size_multiple = 8

    def forward(self, image_B3HW, mask_B1HW):
        assert image_B3HW.shape[2] % 8 == 0 == image_B3HW.shape[3] % 8
        known = nn.functional.avg_pool2d(mask_B1HW, 31, 1, 15)
        return nn.functional.avg_pool2d(image_B3HW * mask_B1HW, 31, 1, 15) / known.clamp_min(1e-6)


def picture(height=41, width=53, dtype=np.uint8):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8).astype(dtype)


def hole_of(height=41, width=53):
    return box(height, width, np.random.default_rng(1))


def png(array, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 10**6))
def test_any_size_comes_back_with_its_known_pixels(height, width, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    hole = rng.random((height, width)) < 0.4
    result = inpaint(image, hole, model=MODEL)
    assert result.image.shape == image.shape
    assert result.image.dtype == np.uint8
    assert np.array_equal(result.image[~hole], image[~hole])
    assert result.ratio == hole.mean()


@pytest.mark.parametrize("name", ["isnet", "base", "base_ff", "unet_like"])
@pytest.mark.parametrize("size", [(1, 1), (1, 200), (253, 3), (33, 47)])
def test_every_network_takes_every_size(name, size):
    net = isnet.build(name, **({"blocks": 1} if name == "isnet" else {}), width=4)
    image = picture(*size)
    hole = np.ones(size, bool) if size == (1, 1) else hole_of(*size)
    result = inpaint(image, hole, model=net)
    assert result.image.shape == image.shape
    assert np.array_equal(result.image[~hole], image[~hole])


def test_the_hole_holds_what_the_network_says():
    image, hole = picture(32, 48), hole_of(32, 48)
    result = inpaint(image, hole, model=MODEL)
    rgb = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    mask = torch.from_numpy(~hole)[None, None].float()
    with torch.no_grad():
        expected = (NET(rgb, mask)[0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(result.image[hole], expected[hole])
    raw = inpaint(image, hole, model=MODEL, composite=False)
    assert np.array_equal(raw.image, expected)
    assert "raw prediction" in raw.notes[-1]


def test_what_the_hole_held_does_not_matter():
    image, hole = picture(), hole_of()
    other = image.copy()
    other[hole] = 255 - other[hole]
    for model in (MODEL, Predictor(Surroundings()), classical("telea"), classical("biharmonic")):
        assert np.array_equal(inpaint(image, hole, model=model).image, inpaint(other, hole, model=model).image)


def test_padding_mirrors_the_picture_and_its_hole():
    image, hole = picture(21, 30).astype(np.float32) / 255, hole_of(21, 30)
    found = Predictor(Surroundings()).predict(image, hole)
    image = np.concatenate([image, image[-2:-5:-1]])
    image = np.concatenate([image, image[:, -2:-4:-1]], axis=1)
    hole = np.concatenate([hole, hole[-2:-5:-1]])
    hole = np.concatenate([hole, hole[:, -2:-4:-1]], axis=1)
    mask = torch.from_numpy(~hole)[None, None].float()
    expected = Surroundings()(torch.from_numpy(image).permute(2, 0, 1)[None], mask)[0].permute(1, 2, 0).numpy()
    assert np.allclose(found, expected[:21, :30], atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        *product([np.uint8, np.uint16, np.float16, np.float32, np.float64], [(41, 53), (41, 53, 3), (41, 53, 4)]),
        *product([np.uint8, np.bool_, np.float32], [(41, 53, 1)]),
        (np.bool_, (41, 53)),
    ],
)
def test_arrays_come_back_as_they_were_handed_in(dtype, shape):
    array = RNG.random(shape)
    array = array < 0.5 if dtype == np.bool_ else array
    if np.issubdtype(dtype, np.integer):
        array = (array * np.iinfo(dtype).max).astype(dtype)
    array = array.astype(dtype)
    hole = hole_of()
    before = array.copy()
    result = inpaint(array, hole, model=MODEL)
    assert (result.image.shape, result.image.dtype) == (shape, dtype)
    assert np.array_equal(result.image[~hole], before[~hole])
    assert not np.array_equal(result.image[hole], before[hole])
    assert np.array_equal(array, before), "the input must not be written to"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 41, 53), (1, 3, 41, 53), (1, 41, 53), (4, 41, 53)])
def test_tensors_come_back_as_they_were_handed_in(dtype, shape):
    tensor = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    tensor = (tensor * 255).byte() if dtype == torch.uint8 else tensor.to(dtype)
    hole = torch.from_numpy(hole_of())
    for mask in (hole, hole[None], hole[None, None].float()):
        result = inpaint(tensor, mask, model=MODEL)
        assert (result.image.shape, result.image.dtype) == (tensor.shape, dtype)
        assert torch.equal(result.image[..., ~hole], tensor[..., ~hole])
        assert not torch.equal(result.image[..., hole], tensor[..., hole])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_files_come_back_in_their_mode(mode, tmp_path):
    suffix = "tiff" if mode == "CMYK" else "png"
    if mode == "I;16":
        Image.fromarray(RNG.integers(0, 65536, (41, 53), dtype=np.uint16)).save(tmp_path / "in.png")
    else:
        Image.fromarray(picture()).convert(mode).save(tmp_path / f"in.{suffix}")
    hole = hole_of()
    Image.fromarray(hole).save(tmp_path / "mask.png")
    result = inpaint(tmp_path / f"in.{suffix}", str(tmp_path / "mask.png"), model=MODEL)
    assert result.save(tmp_path / f"out.{suffix}") == ()
    with Image.open(tmp_path / f"in.{suffix}") as before, Image.open(tmp_path / f"out.{suffix}") as after:
        assert (after.mode, after.size) == (before.mode, before.size)
        assert np.array_equal(np.asarray(after)[~hole], np.asarray(before)[~hole])
        assert np.array_equal(result.image.shape[:2], (41, 53))
    notes = result.save(tmp_path / "out.jpg")
    assert any("lossy" in note for note in notes)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photo_and_mask_are_put_upright(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = png(picture(), "JPEG", exif=exif)
    upright = read_photo(data).pixels
    hole = irregular(*upright.shape[:2], np.random.default_rng(0))
    result = inpaint(data, png(hole), model=MODEL)
    assert result.image.shape == upright.shape
    assert np.array_equal(result.image[~hole], upright[~hole])
    result.save(tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as written:
        assert written.getexif().get(0x0112, 1) == 1
        assert np.array_equal(np.asarray(written)[~hole], upright[~hole])


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_mask_of_the_stored_pixels_is_turned_with_them(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = png(picture(), "JPEG", exif=exif)
    hole = hole_of()
    frame = "stored" if orientation == 3 else "auto"
    result = inpaint(data, png(hole), model=MODEL, mask_frame=frame)
    turns = {3: 2, 6: 3, 8: 1}[orientation]
    assert np.array_equal(result.hole, np.rot90(hole, turns))
    assert f"mask turned like the photo (EXIF orientation {orientation})" in result.notes
    same_size = inpaint(data, png(np.rot90(hole, turns).copy()), model=MODEL)
    assert np.array_equal(same_size.hole, np.rot90(hole, turns))


def test_no_hole_returns_the_picture_unchanged():
    image = picture()
    result = inpaint(image, np.zeros((41, 53), bool), model=MODEL)
    assert np.array_equal(result.image, image)
    assert result.image is not image
    assert result.notes == ("mask has no hole", "the picture is returned unchanged")


def test_all_hole_works():
    for model in (MODEL, classical("telea")):
        result = inpaint(picture(), np.ones((41, 53), bool), model=model)
        assert result.image.shape == (41, 53, 3)
        assert "everything is hole" in result.notes[0]


def test_sizes_that_differ_are_both_named_or_resized_on_request():
    image = picture()
    mask = hole_of(200, 640)
    with pytest.raises(InputError, match=r"mask is 640x200 and picture 53x41 \(width x height\)"):
        inpaint(image, mask, model=MODEL)
    result = inpaint(image, mask, model=MODEL, resize_mask=True)
    assert result.notes == ("mask resized from 640x200 to 53x41",)
    assert np.array_equal(result.image[~result.hole], image[~result.hole])


def test_polarity_is_a_setting():
    image, hole = picture(), hole_of()
    straight = inpaint(image, hole, model=MODEL)
    inverted = inpaint(image, ~hole, model=MODEL, rules=MaskRules(hole="black"))
    assert np.array_equal(straight.image, inverted.image)
    assert "inverted" in inpaint(image, ~hole, model=MODEL).notes[0]


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (np.full((8, 8, 3), np.nan), np.ones((8, 8), bool), "192 of 192 samples are NaN"),
        (np.full((8, 8, 3), 200.0), np.ones((8, 8), bool), "from 200 to 200; need 0 to 1"),
        (np.zeros((8, 8, 3), np.int32), np.ones((8, 8), bool), "dtype int32; need uint8"),
        (np.zeros((3, 8, 9), np.uint8), np.ones((8, 9), bool), r"shape \(3, 8, 9\)"),
        (np.zeros((8, 8, 3), np.uint8), np.full((8, 8), np.nan), "64 of 64 samples are NaN"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 7), bool), r"mask has shape \(8, 8, 7\)"),
        (torch.zeros(2, 3, 8, 8), torch.ones(8, 8), r"shape \(2, 3, 8, 8\).*one picture at a time"),
        (torch.zeros(8, 8), torch.ones(8, 8), r"image tensor has shape \(8, 8\)"),
        (torch.full((3, 8, 8), float("inf")), torch.ones(8, 8), "NaN or infinite"),
        (torch.zeros(3, 8, 8).to_sparse(), torch.ones(8, 8), "image is a tensor of torch.sparse_coo; need a dense one"),
        (torch.zeros(3, 8, 8), torch.ones(8, 8).to_sparse(), "mask is a tensor of torch.sparse_coo"),
        (torch.zeros(3, 8, 8, device="meta"), torch.ones(8, 8), "image is a tensor without data"),
        (b"", np.ones((8, 8), bool), "empty"),
        ("nowhere.png", np.ones((8, 8), bool), "missing: nowhere.png does not exist"),
        (None, np.ones((8, 8), bool), "got NoneType; need a path"),
    ],
)
def test_inputs_that_cannot_be_filled_are_refused_in_a_sentence(image, mask, message):
    with pytest.raises(InputError, match=message):
        inpaint(image, mask, model=MODEL)


def test_settings_are_checked():
    with pytest.raises(InputError, match="precision is 'int8'; need one of fp32, bf16, fp16"):
        Predictor(NET, precision="int8")
    with pytest.raises(InputError, match="max_pixels is 100; need at least 256"):
        Predictor(NET, max_pixels=100)
    with pytest.raises(InputError, match="mask_frame is 'raw'"):
        inpaint(picture(), hole_of(), model=MODEL, mask_frame="raw")
    with pytest.raises(InputError, match=r"rules is 'black'; need MaskRules, such as MaskRules\(hole='black'\)"):
        inpaint(picture(), hole_of(), model=MODEL, rules="black")


def test_a_network_that_answers_nan_is_not_believed():
    broken = isnet.build("isnet", blocks=1, width=4)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="answered with NaN or infinity at fp32"):
        inpaint(picture(), hole_of(), model=broken)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_changes_the_hole_little_and_the_rest_not_at_all(precision):
    image, hole = picture(32, 32), hole_of(32, 32)
    exact = inpaint(image, hole, model=MODEL)
    found = inpaint(image, hole, model=Predictor(NET, precision=precision))
    assert np.array_equal(found.image[~hole], image[~hole])
    assert np.abs(found.image.astype(int) - exact.image)[hole].max() <= 16


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1024, 1 << 20), st.sampled_from([8, 16, 32]))
def test_tiles_cover_the_picture_within_the_limit(height, width, max_pixels, multiple):
    plan = tiles(height, width, max_pixels=max_pixels, multiple=multiple, minimum=multiple)
    down = sorted({(tile.top, tile.top + tile.height) for tile in plan})
    across = sorted({(tile.left, tile.left + tile.width) for tile in plan})
    assert len(plan) == len(down) * len(across)
    for spans, length in ((down, height), (across, width)):
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        for (start, end), (following, _) in pairwise(spans):
            assert end - following >= (end - start) // 8
    for tile in plan:
        rows, columns = (padded_length(side, multiple=multiple, minimum=multiple) for side in (tile.height, tile.width))
        assert rows * columns <= max_pixels
    assert (blend_weights(plan[-1], height, width) > 0).all()


def test_tiles_agree_with_one_pass_where_the_network_sees_little():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((260, 180), Image.Resampling.BICUBIC))
    hole = irregular(180, 260, rng, ratio=(0.1, 0.15))
    whole = inpaint(image, hole, model=Predictor(Surroundings()))
    tiled = inpaint(image, hole, model=Predictor(Surroundings(), max_pixels=96 * 96))
    assert "overlapping tiles" in tiled.notes[-1]
    assert np.array_equal(tiled.image[~hole], image[~hole])
    assert np.abs(whole.image.astype(int) - tiled.image)[hole].mean() < 3


def test_only_tiles_with_a_hole_are_computed():
    calls = []

    class Counting(Surroundings):
        def forward(self, image_B3HW, mask_B1HW):
            calls.append(image_B3HW.shape)
            return super().forward(image_B3HW, mask_B1HW)

    image = picture(300, 300)
    hole = np.zeros((300, 300), bool)
    hole[5:9, 5:9] = True
    model = Predictor(Counting(), max_pixels=64 * 64)
    inpaint(image, hole, model=model)
    assert len(calls) == 1
    inpaint(image, hole, model=model, composite=False)
    assert len(calls) == 1 + len(model.plan(300, 300))


def test_a_hole_larger_than_a_tile_is_filled_from_beyond_it():
    image = np.full((300, 300, 3), 200, np.uint8)
    hole = np.zeros((300, 300), bool)
    hole[20:280, 20:280] = True
    image[hole] = 0

    class Wide(nn.Module):
        size_multiple = 8

        def forward(self, image_B3HW, mask_B1HW):
            known = mask_B1HW.sum((2, 3), keepdim=True)
            return (image_B3HW.sum((2, 3), keepdim=True) / known.clamp_min(1)).expand_as(image_B3HW)

    filled = inpaint(image, hole, model=Predictor(Wide(), max_pixels=64 * 64)).image
    assert (filled[hole] == 200).all()


def test_a_gpu_that_runs_out_of_memory_gets_smaller_tiles():
    class Small(Surroundings):
        def forward(self, image_B3HW, mask_B1HW):
            if image_B3HW.shape[2] * image_B3HW.shape[3] > 5000:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(image_B3HW, mask_B1HW)

    image, hole = picture(200, 200), hole_of(200, 200)
    model = Predictor(Small())
    result = inpaint(image, hole, model=model)
    assert np.array_equal(result.image[~hole], image[~hole])
    assert model.max_pixels <= 5000 * 2


def test_batches_take_one_pass_and_agree_with_single_pictures():
    images = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    masks = (torch.rand(3, 1, 32, 48, generator=torch.Generator().manual_seed(2)) > 0.3).float()
    whole = MODEL.predict_batch(images, masks)
    for i in range(3):
        alone = MODEL.predict(images[i].permute(1, 2, 0).numpy(), (masks[i, 0] == 0).numpy())
        assert np.allclose(whole[i].permute(1, 2, 0).numpy(), alone, atol=1e-5)
    odd = MODEL.predict_batch(images[..., :31, :45], masks[..., :31, :45])
    assert odd.shape == (3, 3, 31, 45)


def test_batches_of_any_size_and_type_give_one_kind_of_tensor():
    images, valid = torch.rand(1, 3, 32, 48), torch.rand(1, 1, 32, 48) > 0.3
    for height in (32, 31):
        image, mask = images[..., :height, :], valid[..., :height, :]
        expected = MODEL.predict_batch(image, mask.float())
        assert not expected.is_inference()
        for other in (image.double(), image.clone().requires_grad_()):
            found = MODEL.predict_batch(other, mask.byte())
            assert found.dtype == torch.float32
            assert torch.equal(found, expected)


@pytest.mark.parametrize("model", [MODEL, classical("mean")], ids=["network", "classical"])
@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (torch.zeros(1, 3, 31, 45, dtype=torch.uint8), torch.ones(1, 1, 31, 45), "uint8; need a floating type"),
        (torch.zeros(2, 3, 32, 32), torch.ones(1, 1, 32, 32), r"masks \(1, 1, 32, 32\)"),
        (torch.zeros(1, 3, 32, 32), torch.ones(1, 1, 32, 16), r"masks \(1, 1, 32, 16\)"),
        (torch.zeros(3, 32, 32), torch.ones(1, 32, 32), r"shape \(3, 32, 32\)"),
        (torch.zeros(0, 3, 32, 32), torch.ones(0, 1, 32, 32), "none of them 0"),
    ],
)
def test_batches_that_cannot_be_filled_are_refused(model, image, mask, message):
    with pytest.raises(InputError, match=message):
        model.predict_batch(image, mask)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_network_of_another_type_fills_in_float32(dtype):
    net = isnet.build("isnet", blocks=1, width=4, init_std=0.1).to(dtype)
    found = inpaint(picture(), hole_of(), model=net).image
    assert found.dtype == np.uint8
    assert {p.dtype for p in net.parameters()} == {dtype}


def test_a_predictor_leaves_the_network_on_its_device():
    net = isnet.build("isnet", blocks=1, width=2)
    Predictor(net, device="meta")
    assert {p.device.type for p in net.parameters()} == {"cpu"}


def test_arrays_in_the_other_order_of_bytes_come_back_in_it():
    array, hole = picture(dtype=np.uint16) * 257, hole_of()
    found = inpaint(array.astype(">u2"), hole, model=classical("telea")).image
    assert found.dtype == np.dtype(">u2")
    assert np.array_equal(found, inpaint(array, hole, model=classical("telea")).image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("half", [False, True])
def test_a_mask_drawn_on_the_stored_pixels_is_turned_and_resized_like_the_photo(orientation, half):
    picture_HW3 = np.full((40, 60, 3), 90, np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(picture_HW3).save(file, "PNG", exif=exif)
    hole = np.zeros((40, 60), bool)
    hole[4:12, 40:58] = True
    upright = apply_orientation(hole, orientation)
    # With orientations 2 to 4 both have one size, which means "shown".
    drawn = hole if orientation >= 5 else upright
    mask = drawn[::2, ::2] if half else drawn
    result = inpaint(file.getvalue(), png(mask), model=MODEL, resize_mask=half)
    assert np.array_equal(result.hole, upright)
    by_hand = inpaint(file.getvalue(), png(hole[::2, ::2] if half else hole), model=MODEL, resize_mask=half,
                      mask_frame="stored")  # fmt: skip
    assert np.array_equal(by_hand.hole, upright)


def test_a_square_mask_to_be_resized_means_the_shown_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(file, "PNG", exif=exif)
    hole = np.zeros((30, 30), bool)
    hole[:10] = True
    result = inpaint(file.getvalue(), png(hole), model=MODEL, resize_mask=True)
    assert result.hole[:18].all()
    assert not result.hole[22:].any()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "I;16"])
def test_refined_grown_and_feathered_fills_keep_known_pixels_in_the_photos_own_mode(mode, tmp_path):
    name = tmp_path / f"photo.{'tif' if mode == 'CMYK' else 'png'}"
    if mode == "I;16":
        Image.fromarray(RNG.integers(0, 65536, (90, 70), dtype=np.uint16)).save(name)
    else:
        Image.fromarray(RNG.integers(0, 256, (90, 70, 3), dtype=np.uint8)).convert(mode).save(name)
    hole = hole_of(90, 70)
    model = Predictor(NET, trained_size=32)
    result = inpaint(name, png(hole), model=model, refine="auto", grow=2, feather=5)
    before = read_photo(name)
    assert result.photo.pixels.dtype == before.pixels.dtype
    assert np.array_equal(result.photo.pixels[~result.hole], before.pixels[~result.hole])
    assert result.hole.sum() > hole.sum()
    assert result.ratio == pytest.approx(result.hole.mean())
    assert any("mask grown by 2 pixels, from" in note for note in result.notes)


def test_the_call_decides_how_a_predictor_refines():
    image, hole = picture(150, 90), hole_of(150, 90)
    off = Predictor(NET, trained_size=32)
    plain, refined = (inpaint(image, hole, model=off, refine=refine) for refine in ("off", "auto"))
    assert not np.array_equal(plain.image, refined.image)
    assert np.array_equal(plain.image, inpaint(image, hole, model=off).image)
    assert np.array_equal(refined.image, inpaint(image, hole, model=off.with_refine("auto")).image)
    assert any("fills 90x150 at one scale" in note for note in plain.notes)
    assert not any("scale" in note for note in refined.notes)
    by_hand = inpaint(image, hole, model=classical("telea"), refine="auto").image
    assert np.array_equal(by_hand, inpaint(image, hole, model=classical("telea")).image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refine": "best"}, "refine is 'best'; need one of auto, off"),
        ({"grow": -1}, "grow is -1; need a whole number of pixels from 0 to 1024"),
        ({"feather": 10**9}, "feather is 1000000000; need a whole number"),
        ({"feather": 2.5}, "feather is 2.5"),
        ({"grow": 100}, "the mask grown by 100 pixels covers all of the picture of 53x41"),
        ({"feather": 3, "composite": False}, "leave out one of the two"),
    ],
)
def test_borders_and_refinement_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        inpaint(picture(), hole_of(), model=MODEL, **options)
