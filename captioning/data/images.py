"""Read a picture, whatever is in it, and turn it into what the encoder sees; Pillow and numpy alone."""

import contextlib
import math
import os
import re
import struct
import threading

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from captioning.cli import one_line
from captioning.data.tars import open_picture
from captioning.files import check_regular

# Pillow knows more, some of which start other programs (EPS) or have no pixels of their own.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
MAX_PIXELS = 100_000_000  # of the largest picture that is read
# libwebp keeps four copies of a picture in RGBA; a progressive JPEG is kept whole, as coefficients of two bytes; the
# file of a TIFF is held beside its pixels.
MAX_BUFFERED_PIXELS = {"WEBP": 30_000_000, "progressive JPEG": 72_000_000, "TIFF": 64_000_000}
MAX_SCANS = 100  # of a JPEG; as cameras and programs write them, they have 1 to 20
MAX_SCANNED_PIXELS = 1_000_000_000  # a JPEG's pixels times its scans; each scan visits every pixel
DEFLATE_RATIO = 1032  # most bytes that one byte of a PNG's data stands for
LARGE_PIXELS = 16_000_000  # pictures above this are decoded one at a time, in whatever threads
BAND_PIXELS = 4_000_000  # of a large picture that are turned to RGB at a time
FULL_SIDE = 2048  # pixels; a JPEG of twice this or more on both sides is decoded at 1/2, 1/4 or 1/8
REFUSED_ASPECT = 5000  # largest ratio of the sides; Pillow needs gigabytes for a strip of one pixel's width
MAX_ASPECT = 16  # of a longer strip the middle is kept: resizing its shorter side would fill the memory
DAMAGED = (SyntaxError, ValueError, TypeError, struct.error)  # what Pillow raises on broken headers and EXIF
UNREADABLE_SHARE = 0.05  # of a split; more is an error, fewer are skipped and named

ORIENTATION = 0x0112  # EXIF tag; 1 = as stored
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # of a JPEG; 00 and D0 to D7 stand inside the data
START_OF_SCAN, END_OF_IMAGE, WITHOUT_LENGTH = 0xDA, 0xD9, (0x01, 0xD8, 0xD9)
SCAN = re.compile(bytes([0xFF, START_OF_SCAN]))  # three times as fast as bytes.count

_one_large_picture = threading.Lock()


def load_image(source, smallest_side=0, max_pixels=MAX_PIXELS, *, smallest_area=0):
    """Return a PIL picture in RGB, turned as its EXIF orientation says.

    source:        path, of a picture in a tar shard too (captioning.data.tars), or binary file; of an animation the
                   first frame is read
    smallest_side: pixels that the caller needs; a much larger JPEG is decoded at 1/2, 1/4 or 1/8, which is faster
    max_pixels:    a picture that claims more is refused before it is decoded
    smallest_area: pixels that the caller needs in all, instead of `smallest_side`

    Raises ValueError naming the file if it is missing, no regular file, truncated, not a picture, or too large.
    """
    file = source
    if isinstance(source, str | os.PathLike):
        file = open_picture(source) or source
    try:
        if file is source and not hasattr(source, "read"):
            check_regular(source)
    except OSError as error:  # a link in a circle, a name that is too long, a folder that may not be searched
        raise ValueError(f"{source}: not a readable image ({error.strerror})") from None
    try:
        with Image.open(file, formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > max_pixels:
                raise ValueError(f"{image.width} x {image.height} pixels, at most {max_pixels:,} are read")
            if max(image.size) > REFUSED_ASPECT * min(image.size):
                sides = f"{image.width} x {image.height} pixels"
                raise ValueError(f"{sides}, one side may be at most {REFUSED_ASPECT:,} times the other")
            check_buffers(image)
            if image.format == "TIFF" and image.mode == "I":
                image = without_sign(image)
            side = smallest_side or FULL_SIDE
            if smallest_area:
                side = math.ceil(math.sqrt(smallest_area * min(image.size) / max(image.size)))
            image.draft(None, (side, side))
            if pixels <= LARGE_PIXELS:
                ImageOps.exif_transpose(image, in_place=True)  # a copy would be one more, of most pictures for nothing
                return to_rgb(image)
            with _one_large_picture:
                return shrink(image)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, *DAMAGED) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        if isinstance(error, UnidentifiedImageError):
            reason = f"its content is none of {', '.join(FORMATS)}"
        name = source if isinstance(source, str) or hasattr(source, "__fspath__") else "the picture"
        raise ValueError(f"{name}: not a readable image ({' '.join(str(reason).split())})") from None


def without_sign(image):
    """Return a picture of 32 bits, or of 16 with a sign, as one of 8 or 16 bits, by the numbers that it holds.

    Raises ValueError if they are of neither.
    """
    low, high = image.getextrema()
    if low < 0 or high > 65535:
        raise ValueError(f"pixels from {low} to {high}; save it with 8 or 16 bits")
    return Image.fromarray(np.asarray(image).astype(np.uint8)) if high <= 255 else image


def check_buffers(image):
    """Raise ValueError for an opened picture that would take far more memory or time than its pixels tell."""
    pixels, kind = image.width * image.height, image.format
    kind = "JPEG" if kind == "MPO" else kind  # of several pictures, as phones write it; the first is read
    if kind == "JPEG":
        scans = count_scans(image.fp)
        if scans > MAX_SCANS or scans * pixels > MAX_SCANNED_PIXELS:
            most = min(MAX_SCANS, MAX_SCANNED_PIXELS // pixels)
            raise ValueError(f"a JPEG of {image.width} x {image.height} pixels with more than {most} scans")
        kind = "progressive JPEG" if image.info.get("progressive") else kind
    if pixels > MAX_BUFFERED_PIXELS.get(kind, pixels):
        raise ValueError(f"{pixels:,} pixels, of a {kind} at most {MAX_BUFFERED_PIXELS[kind]:,} are read")
    if kind == "PNG" and pixels > LARGE_PIXELS:
        bits = 1 if image.mode in ("1", "L", "P") else 8  # a pixel of these may have one bit
        if file_size(image.fp) * DEFLATE_RATIO * 8 < pixels * bits:
            raise ValueError(f"it is cut: {file_size(image.fp)} bytes cannot hold {pixels:,} pixels")


def file_size(file):
    """Return the bytes of an open binary file, which stays where it is."""
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(place)
    return size


def count_scans(file):
    """Return how often a JPEG visits its pixels, at most one more than MAX_SCANS; the open file stays where it is.

    The segments are walked, so that a picture inside the metadata does not count, nor what follows the end.
    Source: ITU-T T.81, annex B
    """
    place, scans, begin = file.tell(), 0, 2
    file.seek(begin)
    block = file.read(2**20)
    if len(block) < 2**20 and len(SCAN.findall(block)) == 1:  # most files; the walk is slower
        file.seek(place)
        return 1
    while found := MARKER.search(block):
        marker, behind = found[0][1], begin + found.end()
        scans += marker == START_OF_SCAN
        if scans > MAX_SCANS or marker == END_OF_IMAGE:
            break
        if marker not in WITHOUT_LENGTH:
            file.seek(behind)
            behind += int.from_bytes(file.read(2), "big")
        if begin < behind < begin + len(block) - 1:
            block, begin = block[behind - begin :], behind
        else:
            file.seek(behind)
            block, begin = file.read(2**20), behind
        while block and not MARKER.search(block):  # a marker may lie across the end of a block
            begin += len(block) - 1
            file.seek(begin)
            block = file.read(2**20) if len(block) > 1 else b""
    file.seek(place)
    return scans


def shrink(image):
    """Return an opened, large PIL picture upright in RGB, its shorter side divided to no less than FULL_SIDE pixels.

    It is turned to RGB a band of rows at a time, so that no second picture of its size is needed.
    """
    image.load()  # a TIFF is turned upright by that
    width, height = image.size
    factor = max(1, min(width, height) // FULL_SIDE)
    cut = min(width, MAX_ASPECT * height), min(height, MAX_ASPECT * width)
    left, top = (width - cut[0]) // 2, (height - cut[1]) // 2
    rows = max(factor, BAND_PIXELS // width // factor * factor)
    small = Image.new("RGB", [-(-side // factor) for side in cut])
    for row in range(0, cut[1], rows):
        band = image.crop((left, top + row, left + cut[0], top + min(row + rows, cut[1])))
        small.paste(whole_rgb(band).reduce(factor), (0, row // factor))
    small.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
    ImageOps.exif_transpose(small, in_place=True)
    return small


def to_rgb(image):
    """Return a PIL picture of any mode in RGB as `whole_rgb`; of a long strip the middle."""
    image = whole_rgb(image)
    long, short = max(image.size), min(image.size)
    if long > MAX_ASPECT * short:
        return ImageOps.fit(image, [min(side, MAX_ASPECT * short) for side in image.size], Image.Resampling.NEAREST)
    return image


def whole_rgb(image):
    """Return a PIL picture of any mode in RGB: on white where it is transparent, 16 bits scaled to 8."""
    if image.mode.startswith("I"):  # I;16 and its kin, and I, as which older versions of Pillow read 16 bits
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    elif image.mode == "F":
        image = from_array(np.asarray(image))
    if image.has_transparency_data:
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        image = white
    return image if image.mode == "RGB" else image.convert("RGB")


def from_array(array):
    """Return the PIL picture of an array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); uint8, uint16, or float in [0, 1].

    Raises ValueError for any other.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or array.size == 0 or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(f"image array: got shape {array.shape}, allowed are (H, W), (H, W, 1), (H, W, 3), (H, W, 4)")
    if array.dtype == np.uint16:
        array = array // 257
    elif array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"image array: got {array.min():.4g} to {array.max():.4g}, floats must lie in [0, 1]")
        array = (array * 255).round()
    elif array.dtype != np.uint8:
        raise ValueError(f"image array: got {array.dtype}, allowed are uint8, uint16, and floats in [0, 1]")
    return Image.fromarray(array.astype(np.uint8))


def read_image(source, max_pixels=MAX_PIXELS):
    """Return the RGB picture of a path, a binary file, a PIL picture, or an array.

    max_pixels: a file or PIL picture that claims more is refused before it is decoded

    Raises ValueError.
    """
    if isinstance(source, np.ndarray):
        return to_rgb(from_array(source))
    if isinstance(source, Image.Image):
        if source.width * source.height > max_pixels:
            raise ValueError(f"image: {source.width} x {source.height} pixels, at most {max_pixels:,} are read")
        try:
            with _one_large_picture if source.width * source.height > LARGE_PIXELS else contextlib.nullcontext():
                return to_rgb(ImageOps.exif_transpose(source))
        except (OSError, *DAMAGED) as error:  # Pillow decodes a picture that was opened when it is first needed
            name = getattr(source, "filename", "") or "the picture"
            raise ValueError(f"{name}: not a readable image ({one_line(error)})") from None
    if not isinstance(source, str | os.PathLike) and not hasattr(source, "read"):
        kind = type(source).__name__
        raise ValueError(f"image: got a {kind}, allowed are a path, a binary file, a PIL picture and a numpy array")
    return load_image(source, max_pixels=max_pixels)


def to_pixels(image, image_size, mean, std):
    """Return (3, S, S) float32 of an RGB picture: resize the shorter side, centre crop, normalise.

    These are the pixels of data_loader.EvalTransform, without torch.
    """
    short = min(image.size)
    width, height = (int(image_size * side / short) for side in image.size)
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    image = image.crop((left, top, left + image_size, top + image_size))
    pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    return ((pixels - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)


def check_unreadable(failed, total, where):
    """Name the unreadable images. Raises ValueError if they are more than a small share of `total`."""
    for line in failed[:5]:
        print(f"warning: {line}; skipped")
    if len(failed) > 5:
        print(f"warning: {len(failed) - 5} more unreadable images skipped")
    check_share(len(failed), total, where, f"; {failed[0]}" if failed else "")


def check_share(number, total, where, first=""):
    """Raise ValueError if `number` unreadable images are more than a small share of `total`; first: names one."""
    if number > UNREADABLE_SHARE * total:
        share = f"{number} of {total} images"
        raise ValueError(f"{where}: {share} cannot be read, at most {UNREADABLE_SHARE:.0%} may be{first}")


def highlight(picture, weights):
    """Return a picture (H, W, 3), 0..1, bright where the weights (h, w) are: a fifth of its light where they are 0."""
    seen = Image.fromarray((weights / weights.max()).astype(np.float32))
    seen = np.asarray(seen.resize(picture.shape[1::-1], Image.Resampling.BICUBIC)).clip(0, 1)
    return picture * (0.2 + 0.8 * seen[:, :, None])
