"""One frame file -> RGB pixels, or `BadFrame`.

Both decoders give the same pixels for ordinary JPEG files (both are libjpeg-turbo); OpenCV is quicker. It gets the
file's bytes rather than its path: from a path, it fills what a truncated file lacks with grey and says nothing. Sizes
that no frame has are found in the header, before the pixels take up memory.
"""

import io
import os
import stat
import warnings
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 64 * 1024 * 1024
MAX_BYTES = 4 * MAX_PIXELS
MAX_ASPECT = 100  # long side over short side; resizing the short side of a thinner image would need gigabytes
_PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # not those that start other programs
_OPENCV_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA


class BadFrame(Exception):
    """A frame file that cannot be decoded in full: missing, empty, truncated, too large, or not an image."""


class JpegHeader(NamedTuple):
    """Size and components of a JPEG file, as its header gives them."""

    width: int
    height: int
    components: int  # 1 grey, 3 colour, 4 CMYK


def read_array(path: str | os.PathLike) -> np.ndarray:
    """Decode one frame quickly: uint8 RGB [H, W, 3], orientation tags ignored. Raises BadFrame."""
    content, header = _read_checked(path)
    if header is not None and header.components in (1, 3):
        try:
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), _OPENCV_FLAGS)
        except cv2.error:
            pixels = None
        if pixels is not None:
            return pixels
    return np.array(_decode_with_pillow(path, content))


def read_image(path: str | os.PathLike) -> Image.Image:
    """Decode one frame with Pillow alone: the same pixels as `read_array`, as an RGB image. Raises BadFrame."""
    content, _ = _read_checked(path)
    return _decode_with_pillow(path, content)


def jpeg_header(content: bytes) -> JpegHeader | None:
    """Size and components of a JPEG file, from its markers; None where they cannot be followed."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == _START_OF_SCAN:
            return None
        if marker in _START_OF_FRAME and position + 10 <= len(content):
            height = int.from_bytes(content[position + 5 : position + 7], "big")
            width = int.from_bytes(content[position + 7 : position + 9], "big")
            return JpegHeader(width, height, components=content[position + 9])
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return None


def _read_checked(path: str | os.PathLike) -> tuple[bytes, JpegHeader | None]:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:  # a pipe waits for ever, a device never ends
            raise BadFrame(f"{path}: not a file, or one of {status.st_size:,} bytes")
        with open(path, "rb", buffering=0) as file:
            content = file.read()
    except OSError as error:
        raise BadFrame(f"{path}: {error.strerror}") from None
    if not content:
        raise BadFrame(f"{path}: empty file")
    header = jpeg_header(content) if content.startswith(b"\xff\xd8") else None
    if header is not None:
        _check_size(path, header.width, header.height)
    return content, header


def _check_size(path: str | os.PathLike, width: int, height: int) -> None:
    short, long = sorted((width, height))
    if width * height > MAX_PIXELS or long > MAX_ASPECT * short:
        raise BadFrame(f"{path}: {width} x {height} pixels is no frame of a video")


def _decode_with_pillow(path: str | os.PathLike, content: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the check below is stricter
            image = Image.open(io.BytesIO(content), formats=_PILLOW_FORMATS)
        _check_size(path, image.width, image.height)
        if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip at 255
            image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        return image.convert("RGB")
    except BadFrame:
        raise
    except UnidentifiedImageError:
        raise BadFrame(f"{path}: not an image") from None
    except Exception as error:  # decoders raise a dozen types on damaged bytes, struct.error and SyntaxError among them
        raise BadFrame(f"{path}: {error}") from error
