"""Pictures of every kind become the same RGB; hostile files are one line; pixels are those that training evaluates."""

import io
import os
import random
import struct
import threading
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from captioning.data import images
from captioning.data.images import from_array, load_image, read_image, to_pixels, to_rgb
from data_loader import MEAN, STD, EvalTransform


@pytest.fixture
def photo():
    """A smooth picture whose corners differ."""
    y, x = np.mgrid[0:40, 0:60]
    return Image.fromarray(np.stack([4 * x, 6 * y, 255 - 4 * x], axis=2).astype(np.uint8))


def difference(one, other):
    """The mean difference of two pictures of one size, 0..255."""
    assert one.mode == other.mode == "RGB"
    assert one.size == other.size
    return np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).mean()


@pytest.mark.parametrize("size", [1, 32, 63, 224])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (64, 64), (63, 200), (201, 64), (500, 333), (15, 240)])
def test_pixels_are_those_of_the_evaluation_transform(shape, size):
    """A captioner without torch must see what the checkpoint was validated on: bit for bit before normalising."""
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    expected = EvalTransform(size)(image)
    ours = torch.from_numpy(np.ascontiguousarray(to_pixels(image, size, MEAN, STD)))
    assert ours.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    raw = [255 * (p * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) for p in (ours, expected)]
    assert torch.equal(raw[0].round(), raw[1].round())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(photo, tmp_path, orientation):
    """The picture is stored as the camera held it; each inverse below is the orientation's own definition."""
    turn = Image.Transpose
    stored = {
        1: [], 2: [turn.FLIP_LEFT_RIGHT], 3: [turn.ROTATE_180], 4: [turn.FLIP_TOP_BOTTOM],
        5: [turn.TRANSPOSE], 6: [turn.ROTATE_90], 7: [turn.TRANSVERSE], 8: [turn.ROTATE_270],
    }[orientation]  # fmt: skip
    held = photo
    for one in stored:
        held = held.transpose(one)
    exif = Image.Exif()
    exif[0x0112] = orientation
    held.save(tmp_path / "a.png", exif=exif)
    assert difference(load_image(tmp_path / "a.png"), photo) == 0


@pytest.mark.parametrize(
    ("mode", "suffix", "tolerance"),
    [("L", "png", 0), ("1", "png", 0), ("CMYK", "tif", 2), ("CMYK", "jpg", 6), ("RGBA", "webp", 12), ("P", "gif", 12)],
)
def test_modes_become_what_they_look_like(photo, tmp_path, mode, suffix, tolerance):
    converted = photo.convert(mode)
    converted.save(tmp_path / f"a.{suffix}")
    assert difference(load_image(tmp_path / f"a.{suffix}"), converted.convert("RGB")) <= tolerance


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_is_white_not_what_hides_beneath(mode):
    """Dropping the alpha channel shows what no viewer shows: black, most of the time."""
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (200, 200, 200, 255))
    seen = to_rgb(image.convert(mode))
    assert seen.getpixel((0, 0)) == (255, 255, 255)
    assert max(abs(value - 200) for value in seen.getpixel((1, 0))) <= 2


def test_a_transparent_colour_of_a_png_is_white(tmp_path):
    Image.new("RGB", (3, 3), (10, 20, 30)).save(tmp_path / "a.png", transparency=(10, 20, 30))
    assert load_image(tmp_path / "a.png").getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_cut(tmp_path, suffix):
    """Pillow's own conversion cuts at 255, which turns all but the darkest 16-bit pixels white."""
    levels = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / f"a.{suffix}")
    assert np.asarray(load_image(tmp_path / f"a.{suffix}"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_floats_of_a_tiff_are_scaled(tmp_path):
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "a.tif")
    assert np.asarray(load_image(tmp_path / "a.tif"))[0, :, 0].tolist() == [0, 128, 255]


def test_an_animation_is_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "a.gif").getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize(("size", "expected"), [((1, 1), (1, 1)), ((20000, 20), (320, 20)), ((2, 3000), (2, 32))])
def test_extreme_shapes_keep_their_middle(tmp_path, size, expected):
    """Resizing the shorter side of a 1 x 10,000,000 strip to 224 pixels would take 1.5 TB."""
    image = Image.new("RGB", size, "white")
    image.paste("red", (size[0] // 2 - 1, size[1] // 2 - 1, size[0] // 2 + 1, size[1] // 2 + 1))
    image.save(tmp_path / "a.png")
    loaded = load_image(tmp_path / "a.png")
    assert loaded.size == expected
    assert (255, 0, 0) in [color for _, color in loaded.getcolors()]
    assert to_pixels(loaded, 224, MEAN, STD).shape == (3, 224, 224)


def segments(*bodies, begin=b"\xff\xd8", end=b"\xff\xd9"):
    return io.BytesIO(begin + b"".join(bodies) + end)


def segment(marker, body):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def test_scans_of_a_jpeg_are_counted_as_they_stand(photo, tmp_path):
    """Stuffed bytes, restarts, pictures inside the metadata and what follows the end are none."""
    scan = segment(0xDA, b"\0" * 6) + b"data\xff\x00\xda\xff\xd0more"
    assert images.count_scans(segments(segment(0xE1, b"\xff\xda" * 500), scan, scan)) == 2
    assert images.count_scans(segments(scan, end=b"\xff\xd9" + scan * 50)) == 1
    assert images.count_scans(segments(scan, b"x" * (2**20 - 40), scan, b"\0" * 2**20 + scan, b"y" * 2**21)) == 3
    assert images.count_scans(segments(*[scan] * 5000)) == images.MAX_SCANS + 1
    assert images.count_scans(segments(scan, b"\xff" * 2**21, scan)) == 2
    for content in (b"", b"\xff", b"\xff\xd8\xff", b"\xff\xd8\xff\xda", b"\xff\xd8" + b"\xff\xe1\0\0" * 9):
        assert images.count_scans(io.BytesIO(content)) <= 1
    for progressive, number in ((False, 1), (True, 10)):
        photo.save(tmp_path / "a.jpg", progressive=progressive)
        with open(tmp_path / "a.jpg", "rb") as file:
            file.seek(7)
            assert images.count_scans(file) == number
            assert file.tell() == 7


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded(photo, tmp_path):
    """Each scan visits every pixel, and takes a few bytes: 3,000 of them took minutes."""
    photo.save(tmp_path / "a.jpg", progressive=True)
    content = (tmp_path / "a.jpg").read_bytes()
    last = content.rindex(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(content[:-2] + content[last:-2] * 3000 + b"\xff\xd9")
    with pytest.raises(ValueError, match=r"a JPEG of 60 x 40 pixels with more than 100 scans"):
        load_image(tmp_path / "a.jpg")


def test_a_jpeg_of_several_pictures_has_the_bounds_of_one(photo, tmp_path):
    """Pillow calls it MPO, which was not looked at: half a minute for a file of 120 kB."""
    photo.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[photo], progressive=True)
    content = (tmp_path / "a.jpg").read_bytes()
    end = content.index(b"\xff\xd9")
    assert difference(load_image(tmp_path / "a.jpg"), photo) < 5
    last = content.rindex(b"\xff\xda", 0, end)
    (tmp_path / "a.jpg").write_bytes(content[:end] + content[last:end] * 3000 + content[end:])
    with pytest.raises(ValueError, match=r"a JPEG of 60 x 40 pixels with more than 100 scans"):
        load_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(("kind", "factor"), [(np.int16, 1), (np.int32, 1), (np.int32, 257)])
def test_pixels_with_a_sign_are_taken_by_their_numbers(photo, tmp_path, kind, factor):
    """They were taken for 16 bits without one: black, or white, and captioned."""
    gray = photo.convert("L")
    Image.fromarray(np.asarray(gray).astype(kind) * kind(factor)).save(tmp_path / "a.tif")
    assert difference(load_image(tmp_path / "a.tif"), gray.convert("RGB")) == 0
    Image.fromarray(np.asarray(gray).astype(kind) - kind(300)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a.tif: not a readable image \(pixels from -\d+ to -?\d+; save"):
        load_image(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["circle.jpg", "x" * 300 + ".jpg"])
def test_what_the_disk_refuses_is_an_unreadable_picture(tmp_path, name):
    """It was an OSError, which ended a run over thousands of others."""
    if len(name) < 100:
        (tmp_path / name).symlink_to(name)
    with pytest.raises(ValueError, match=r"not a readable image \((Too many levels|File name too long)"):
        load_image(tmp_path / name)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "I;16"])
def test_large_pictures_are_shrunk_in_bands_as_they_are_at_once(tmp_path, monkeypatch, photo, mode):
    """Turning them to RGB as a whole took a second and a third picture of their size."""
    large = photo.resize((1800, 1200), Image.Resampling.BICUBIC)
    if mode == "I;16":
        large = Image.fromarray(np.asarray(large.convert("L")).astype(np.uint16) * 257)
    elif mode == "RGBA":
        large.putalpha(Image.linear_gradient("L").resize(large.size))
    else:
        large = large.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 1 if mode == "CMYK" else 6  # Pillow turns a TIFF upright by itself
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    large.save(path, exif=exif)
    upright = to_rgb(large) if mode == "CMYK" else to_rgb(large).transpose(Image.Transpose.ROTATE_270)
    expected = upright.reduce(4)
    monkeypatch.setattr(images, "LARGE_PIXELS", 1_000_000)
    monkeypatch.setattr(images, "FULL_SIDE", 300)
    monkeypatch.setattr(images, "BAND_PIXELS", 100_000)
    found = load_image(path)
    assert found.size == expected.size
    assert min(found.size) == 300
    assert difference(found, expected) < 0.5


def test_a_large_strip_keeps_its_middle(tmp_path, monkeypatch):
    strip = Image.new("RGB", (20_000, 100), "white")
    strip.paste("red", (9_900, 0, 10_100, 100))
    strip.save(tmp_path / "a.png")
    monkeypatch.setattr(images, "LARGE_PIXELS", 1_000_000)
    found = load_image(tmp_path / "a.png")
    assert found.size == (1600, 100)
    assert found.getpixel((800, 50)) == (255, 0, 0)


def test_formats_that_are_decoded_whole_have_a_bound_of_their_own(tmp_path):
    """36 bytes of WebP took 1.5 GB."""
    Image.new("RGB", (6000, 6000)).save(tmp_path / "a.webp", lossless=True, method=0)
    with pytest.raises(ValueError, match="36,000,000 pixels, of a WEBP at most 30,000,000 are read"):
        load_image(tmp_path / "a.webp")


def png_header(width, height):
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def zip_file():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", b"x" * 100)
    return file.getvalue()


HOSTILE = {
    "bomb.png": (lambda: png_header(60000, 60000), "3600000000 pixels|60000 x 60000 pixels"),
    "cut.png": (lambda: png_header(9000, 9000), "it is cut: 74 bytes cannot hold 81,000,000 pixels"),
    "huge.png": (lambda: png_header(20000, 6000), "20000 x 6000 pixels, at most 100,000,000 are read"),
    "text.png": (lambda: b"hello, I am a text file\n" * 50, "its content is none of JPEG, PNG"),
    "drawing.svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>', "none of"),
    "archive.png": (zip_file, "its content is none of"),
    "page.eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n", "none of"),
    "empty.jpg": (lambda: b"", "its content is none of"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_line_that_names_it(tmp_path, name):
    content, reason = HOSTILE[name]
    (tmp_path / name).write_bytes(content())
    with pytest.raises(ValueError, match=reason) as error:
        load_image(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}: not a readable image")
    assert "\n" not in str(error.value)


def test_every_way_to_cut_a_jpeg_is_one_line_or_a_picture(photo, tmp_path):
    file = io.BytesIO()
    photo.save(file, "JPEG")
    content = file.getvalue()
    generator = random.Random(0)
    for length in [*range(30), *(generator.randrange(len(content)) for _ in range(60))]:
        (tmp_path / "a.jpg").write_bytes(content[:length])
        with pytest.raises(ValueError, match="not a readable image") as error:
            load_image(tmp_path / "a.jpg")
        assert "\n" not in str(error.value)


def test_large_pictures_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    """Each may take a gigabyte while it is decoded; the threads that read pictures must not multiply it."""
    active, most, lock = 0, 0, threading.Lock()
    original = images.whole_rgb

    def slow(image):
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        time.sleep(0.02)
        with lock:
            active -= 1
        return original(image)

    monkeypatch.setattr(images, "whole_rgb", slow)
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    for limit, at_once in ((10_000, 4), (1000, 1)):
        monkeypatch.setattr(images, "LARGE_PIXELS", limit)
        most = 0
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(load_image, [tmp_path / "a.png"] * 8))
        assert most <= at_once
        assert limit == 1000 or most > 1


def test_an_opened_picture_that_is_cut_is_one_line_that_names_it(photo, tmp_path):
    """Pillow reads its pixels when they are first needed, and raises errors of its own then."""
    file = io.BytesIO()
    photo.save(file, "JPEG")
    (tmp_path / "a.jpg").write_bytes(file.getvalue()[:-200])
    with Image.open(tmp_path / "a.jpg") as image, pytest.raises(ValueError, match="not a readable image") as error:
        images.read_image(image)
    assert str(error.value).startswith(f"{tmp_path / 'a.jpg'}: ")
    assert "\n" not in str(error.value)


def test_a_huge_jpeg_is_decoded_smaller(tmp_path):
    Image.new("RGB", (8400, 4200), "blue").save(tmp_path / "a.jpg")
    Image.new("RGB", (8000, 4000), "blue").save(tmp_path / "b.jpg")
    assert load_image(tmp_path / "a.jpg").size == (4200, 2100)
    assert load_image(tmp_path / "b.jpg").size == (8000, 4000)


@pytest.mark.parametrize(
    ("array", "pixel"),
    [
        (np.full((4, 5), 7, np.uint8), (7, 7, 7)),
        (np.full((4, 5, 1), 7, np.uint8), (7, 7, 7)),
        (np.full((4, 5, 3), 7, np.uint8), (7, 7, 7)),
        (np.zeros((4, 5, 4), np.uint8), (255, 255, 255)),
        (np.full((4, 5), 514, np.uint16), (2, 2, 2)),
        (np.full((4, 5, 3), 0.2, np.float64), (51, 51, 51)),
    ],
)
def test_arrays_become_pictures(array, pixel):
    image = read_image(array)
    assert (image.size, image.getpixel((2, 2))) == ((5, 4), pixel)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2, 2), np.uint8), r"got shape \(2, 2, 2\)"),
        (np.zeros((0, 3), np.uint8), r"got shape \(0, 3\)"),
        (np.zeros((3, 8, 8), np.uint8), r"got shape \(3, 8, 8\)"),
        (np.zeros((8, 8), np.int64), "got int64, allowed are uint8"),
        (np.full((8, 8), 255.0), "got 255 to 255, floats must lie in"),
        (np.full((8, 8), np.nan), "floats must lie in"),
    ],
)
def test_other_arrays_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        from_array(array)


def test_the_callers_picture_is_turned_in_a_copy(photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as held:
        assert read_image(held).size == photo.size[::-1]
        assert held.size == photo.size


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path):
    """A named pipe kept the command, and one request the page, waiting for ever."""
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match=r"pipe\.jpg: is a device or a pipe, a file is needed"):
        load_image(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match="/dev/zero: is a device or a pipe, a file is needed"):
        load_image("/dev/zero")
    with pytest.raises(ValueError, match="is a folder, a file is needed"):
        load_image(tmp_path)


def test_a_strip_of_a_pixels_width_is_refused_before_it_is_decoded(tmp_path):
    Image.new("L", (1, 50_000)).save(tmp_path / "strip.png")
    with pytest.raises(ValueError, match="1 x 50000 pixels, one side may be at most 5,000 times the other"):
        load_image(tmp_path / "strip.png")


@pytest.mark.parametrize("thing", [b"\x89PNG", torch.zeros(3, 8, 8), 7, None])
def test_what_is_no_picture_is_named_by_its_type(thing):
    with pytest.raises(ValueError, match=f"got a {type(thing).__name__}, allowed are a path, a binary file"):
        read_image(thing)
