"""How an image file becomes 8-bit grey or RGB pixels: every rule by name, every refusal with its reason. No torch."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

VERSION = 1
"""Raised whenever a rule below gives other pixels."""

EXTENSIONS = frozenset(
    [".bmp", ".gif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"]
)
"""Names that are taken for images, in any case."""

# Only these decoders: others (EPS, PDF, ...) run programs or draw nothing by themselves.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

RULES = {
    "16-bit": "16 bits a channel, the high byte is used",
    "alpha": "transparency, composited on white",
    "CMYK": "CMYK, converted to RGB without a colour profile",
    "colour space": "other colour space, converted to RGB",
    "EXIF": "EXIF orientation, applied",
    "frames": "several frames or pages, the first is used",
    "greyscale": "greyscale, repeated in all channels",
    "palette": "palette, its colours looked up",
}
"""Rule -> what it says of a file."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 258  # tags of EXIF and TIFF


class BadImageError(Exception):
    """A file that is no usable image; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What one reading of a file has shown."""

    size: int
    """Bytes."""
    mtime_ns: int
    sha256: str
    bad: str = ""
    """Why it is left out; empty for a usable image."""
    rules: tuple[str, ...] = ()
    """Keys of `RULES` that apply to it."""


@contextmanager
def pillow_warnings() -> Iterator[None]:
    """Make Pillow's warning of a decompression bomb an error, and silence its others.

    Warning filters belong to the process, so this goes around a pool of threads, not into them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def inspect(path: Path) -> Facts:
    """Read a file once: its digest, and whether and by which rules it decodes in full."""
    try:
        stat = path.stat()
        data = path.read_bytes()
    except OSError as error:
        return Facts(0, 0, "", bad=f"cannot be read ({error.strerror})")
    facts = (stat.st_size, stat.st_mtime_ns, hashlib.sha256(data).hexdigest())
    try:
        return Facts(*facts, rules=decode(data)[1])
    except BadImageError as error:
        return Facts(*facts, bad=str(error))


def decode(data: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    """Decode the bytes of a file; used inside `pillow_warnings`.

    Returns:
        An image of mode L or RGB, upright, and the keys of the `RULES` that were applied.

    Raises:
        BadImageError: empty, truncated, corrupt, too large, or no image at all.
    """
    if not data:
        raise BadImageError("empty file")
    try:
        # verify() finds wrong checksums in a PNG, which decoding does not look at; it closes the image.
        Image.open(io.BytesIO(data), formats=_FORMATS).verify()
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        rules = _frames(image) | _depth(image, data)
        image.load()
        image, turned = _upright(image)
        image, converted = _eight_bits(image)
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError("no image of a known format") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadImageError(f"more than {Image.MAX_IMAGE_PIXELS} pixels") from error
    # Broken files raise almost anything: OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
    except Exception as error:
        raise BadImageError(f"corrupt or truncated ({' '.join(str(error).split())})") from error
    return image, tuple(sorted(rules | turned | converted))


def resized(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Return uint8 [size, size, channels]: the whole image, bilinear with anti-aliasing.

    >>> resized(Image.new("RGB", (9, 5), (255, 0, 0)), 2, 1).tolist()
    [[[76], [76]], [[76], [76]]]
    """
    image = image.convert("L" if channels == 1 else "RGB")
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(size, size, channels)


def _frames(image: Image.Image) -> set[str]:
    # A photo with a preview (MPO) is a JPEG of one picture to every other program too.
    several = image.format != "MPO" and getattr(image, "is_animated", False)
    if several:
        image.seek(0)
    return {"frames"} if several else set()


def _depth(image: Image.Image, data: bytes) -> set[str]:
    # Pillow reduces 16-bit colour to its high bytes without a word, so the headers are asked.
    if image.format == "PNG":
        deep = data[24] == 16
    elif image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
        deep = 16 in (bits if isinstance(bits, tuple) else (bits,))
    else:
        deep = image.mode.startswith("I")
    return {"16-bit"} if deep else set()


def _upright(image: Image.Image) -> tuple[Image.Image, set[str]]:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # a broken EXIF block says nothing of the pixels
        orientation = None
    if orientation not in _TURNS:
        return image, set()
    return image.transpose(_TURNS[orientation]), {"EXIF"}


def _eight_bits(image: Image.Image) -> tuple[Image.Image, set[str]]:
    mode = image.mode
    if mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise BadImageError("32-bit pixels of unknown range")
        return Image.fromarray((values // 256).astype(np.uint8)), {"greyscale"}
    if mode == "F":
        raise BadImageError("floating-point pixels of unknown range")
    rules = {"palette"} if mode in ("P", "PA") else set()
    if mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB"), rules | {"alpha"}
    if mode in ("L", "1"):
        return image.convert("L"), {"greyscale"}
    if mode not in ("RGB", "P"):
        rules = {"CMYK" if mode == "CMYK" else "colour space"}
    return image.convert("RGB"), rules
