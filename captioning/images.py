"""Read a picture file, whatever is in it."""

import struct

from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000  # a picture that claims more is refused before it is decoded
DAMAGED = (SyntaxError, ValueError, TypeError, struct.error)  # what Pillow raises on broken headers and EXIF
UNREADABLE_SHARE = 0.05  # of a split; more is an error, fewer are skipped and named


def load_image(path, smallest_side=0):
    """Return a PIL picture in RGB, turned as its EXIF orientation says.

    smallest_side: pixels that the caller needs; a much larger JPEG is decoded at 1/2, 1/4 or 1/8, which is faster

    Raises ValueError naming the file if it is missing, truncated, not a picture, or too large.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, at most {MAX_PIXELS:,} are read")
            if smallest_side:
                image.draft("RGB", (smallest_side, smallest_side))
            ImageOps.exif_transpose(image, in_place=True)  # a copy would be one more, of most pictures for nothing
            return to_eight_bits(image).convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, *DAMAGED) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ValueError(f"{path}: not a readable image ({' '.join(str(reason).split())})") from None


def to_eight_bits(image):
    """Return a picture of 16 bits a pixel in 8, which Pillow would cut off at 255: all white; others as they are.

    Raises ValueError for 32 bits a pixel, whose white can be any number.
    """
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG"):  # older Pillows have no I;16 in PNG
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in ("I", "F"):
        raise ValueError("grey values of 32 bits, 8 or 16 are read")
    return image


def check_unreadable(failed, total, where):
    """Name the unreadable images. Raises ValueError if they are more than a small share of `total`."""
    for line in failed[:5]:
        print(f"warning: {line}; skipped")
    if len(failed) > 5:
        print(f"warning: {len(failed) - 5} more unreadable images skipped")
    if len(failed) > UNREADABLE_SHARE * total:
        share = f"{len(failed)} of {total} images"
        raise ValueError(f"{where}: {share} cannot be read, at most {UNREADABLE_SHARE:.0%} may be; {failed[0]}")
