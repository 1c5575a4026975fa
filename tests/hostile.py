"""Hostile and odd files, made in code: what each one is, and how a server must answer it.

`REFUSED` files get an error whose text matches the pattern. `ODD` files are unusual but sound, and are answered as
Pillow decodes their first frame.
"""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from functools import cache
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

UNREADABLE = "not a readable JPEG, PNG or WebP file"
DAMAGED = f"truncated or damaged|{UNREADABLE}"
TOO_LARGE = r"\d+ pixels, allowed are \d+"
SCANS = "more than 100 scans, the most allowed"
SEGMENTS = "more than 10000 segments, the most allowed"
ELONGATED = "too elongated"
KINDS = ("JPEG", "PNG", "WEBP")
ORIENTATION = 0x0112
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def picture(width: int = 48, height: int = 36, mode: str = "RGB") -> Image.Image:
    """A smooth picture with a sharp edge; 8-bit channels."""
    y, x = np.mgrid[:height, :width]
    planes = np.stack([x * 5 % 256, y * 7 % 256, (x // 8 + y // 8) % 2 * 255], axis=2)
    return Image.fromarray(planes.astype(np.uint8)).convert(mode)


def encoded(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image or picture()).save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, data: bytes = b"", depth: int = 8, colour: int = 2, more: bytes = b"") -> bytes:
    """A PNG with any header, `data` as its compressed pixels, and `more` chunks before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return PNG_MAGIC + header + more + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def small_png(more: bytes) -> bytes:
    """A sound PNG with `more` chunks after its header."""
    whole = encoded("PNG")
    return whole[:33] + more + whole[33:]


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose frame header announces this size."""
    whole = bytearray(encoded("JPEG"))
    frame = whole.index(b"\xff\xc0")
    whole[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(whole)


def jpeg_of_scans(width: int, height: int, scans: int) -> bytes:
    """A grey progressive JPEG of so many scans without data; each takes time for every pixel."""
    tables = b"".join(
        b"\xff\xc4" + struct.pack(">HB", 20, kind) + bytes([1, *[0] * 15, symbol])
        for kind, symbol in ((0x00, 0), (0x10, 0xE0))
    )
    first, more = (b"\xff\xda" + struct.pack(">HB", 8, 1) + bytes([1, 0, *band, 0]) for band in ((0, 0), (1, 63)))
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, height, width, 1) + bytes([1, 0x11, 0])
    levels = b"\xff\xdb" + struct.pack(">HB", 67, 0) + b"\1" * 64
    return b"\xff\xd8" + levels + frame + tables + first + more * (scans - 1) + b"\xff\xd9"


def webp_of_size(width: int, height: int) -> bytes:
    """An extended WebP whose canvas has this size, around a small picture."""
    frame = encoded("WEBP")[12:]
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", len(canvas)) + canvas + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def flipped(content: bytes, place: int) -> bytes:
    damaged = bytearray(content)
    damaged[place] ^= 0x55
    return bytes(damaged)


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil.py", "raise SystemExit\n" * 100)
    return stream.getvalue()


def zipped_in_text() -> bytes:
    info = PngInfo()
    info.add_text("Comment", zipped().decode("latin-1"), zip=True)
    return encoded("PNG", pnginfo=info)


def exif(**entries: Any) -> bytes:
    made = Image.Exif()
    made[ORIENTATION] = entries.pop("orientation", 1)
    if "make" in entries:
        made[0x010F] = entries["make"]
    return made.tobytes()


def looping_exif() -> bytes:
    """A directory of entries whose successor is itself, and an entry that points at it."""
    loop = struct.pack("<HHIIHHII", 0x8769, 4, 1, 8, ORIENTATION, 3, 1, 6)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + struct.pack("<H", 2) + loop + struct.pack("<I", 8)


def animated(kind: str, frames: int = 8) -> bytes:
    rest = [picture().rotate(30 * number) for number in range(1, frames)]
    return encoded(kind, save_all=True, append_images=rest, duration=10, loop=0)


@cache
def refused() -> dict[str, tuple[bytes, str]]:
    """name -> (file, pattern of the error)."""
    photo, page, web = (encoded(kind) for kind in KINDS)
    bomb = zlib.compress(bytes(80 << 20), 9)
    made = {
        "one byte": (b"x", UNREADABLE),
        "text": (b"this is no image", UNREADABLE),
        "zeros": (bytes(4096), UNREADABLE),
        "script": (b"#!/bin/sh\nrm -rf /\n", UNREADABLE),
        "page of the web": (b"<html><img src=x onerror=alert(1)></html>", UNREADABLE),
        "drawing that grows": (
            b'<!DOCTYPE svg [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><svg xmlns="http://www.w3.org/2000/svg">&b;</svg>',
            UNREADABLE,
        ),
        "pickle": (b"cos\nsystem\n(S'touch /tmp/evil'\ntR.", UNREADABLE),
        "gzip of a picture": (gzip.compress(page), UNREADABLE),
        "gzip bomb": (gzip.compress(bytes(64 << 20)), UNREADABLE),
        "zip": (zipped(), UNREADABLE),
        "document before a photo": (b"%PDF-1.7\n" + photo, UNREADABLE),
        "animation": (animated("GIF"), UNREADABLE),
        "animation with a photo behind": (encoded("GIF") + photo, UNREADABLE),
        "page that announces nothing": (png(0, 0), DAMAGED),
        "page of no width": (png(0, 9), DAMAGED),
        "page without pixels": (png(100, 100), DAMAGED),
        "page with few pixels": (png(100, 100, bytes(50)), DAMAGED),
        "page with a bomb as profile": (
            small_png(chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(16 << 20), 9))),
            DAMAGED,
        ),
        "page of an unknown depth": (png(8, 8, bytes(300), depth=5), DAMAGED),
        "page of an unknown colour": (png(8, 8, bytes(300), colour=7), DAMAGED),
        "page with a broken checksum": (flipped(page, 30), DAMAGED),
        "page with broken pixels": (flipped(page, len(page) // 2), DAMAGED),
        "page with an endless chunk": (PNG_MAGIC + b"\xff\xff\xff\xffIHDR", DAMAGED),
        "page of 3.6 billion pixels": (png(60000, 60000), TOO_LARGE),
        "page of four thousand million by two": (png(2**31 - 1, 2), TOO_LARGE),
        "page of 100 million pixels, all there": (png(10000, 10000, bytes(30_010_000)), TOO_LARGE),
        "page with a bomb in its text": (small_png(chunk(b"zTXt", b"Comment\0\0" + bomb)), DAMAGED),
        "page with a bomb in international text": (
            small_png(chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb)),
            DAMAGED,
        ),
        "photo of four billion pixels": (jpeg_of_size(65500, 65500), TOO_LARGE),
        "photo of 5000 empty scans": (jpeg_of_scans(4000, 4000, 5000), SCANS),
        "photo of scans apart": (jpeg_of_scans(4000, 4000, 5000).replace(b"\xff\xda", b"\0\xff\xff\xda"), SCANS),
        "photo of endless segments": (photo[:2] + b"\xff\xfe\0\2" * (4 << 20) + photo[2:], SEGMENTS),
        "photo after endless fill bytes": (photo[:2] + b"\xff" * (16 << 20) + photo[2:], SEGMENTS),
        "photo of fill bytes only": (photo[:2] + b"\xff" * (16 << 20), UNREADABLE),
        "photo of no height": (jpeg_of_size(48, 0), DAMAGED),
        "web picture of 268 million pixels": (webp_of_size(16384, 16384), f"{DAMAGED}|{TOO_LARGE}"),
        "thread": (png(1, 100_000, bytes(400_000)), ELONGATED),
    }
    for name, content in zip(KINDS, (photo, page, web), strict=True):
        made[f"{name}, half"] = (content[: len(content) // 2], DAMAGED)
        made[f"{name}, twelve bytes"] = (content[:12], DAMAGED)
    for kind in ("BMP", "TIFF", "ICO", "PPM", "TGA", "PCX", "SGI", "DDS", "EPS", "PDF", "ICNS", "MSP", "IM"):
        made[f"format {kind}"] = (encoded(kind, picture(mode="1") if kind == "MSP" else None), UNREADABLE)
    return made


@cache
def odd() -> dict[str, bytes]:
    """name -> file that is sound, and decoded like any other."""
    photo, page = encoded("JPEG"), encoded("PNG")
    grey16 = Image.fromarray((np.arange(48 * 36, dtype=np.uint16) * 37).reshape(36, 48))
    transparent = picture(mode="P")
    transparent.info["transparency"] = bytes(range(256))
    made = {
        "photo in CMYK": encoded("JPEG", picture(mode="CMYK")),
        "photo in grey": encoded("JPEG", picture(mode="L")),
        "progressive photo": encoded("JPEG", progressive=True),
        "photo of 100 scans": jpeg_of_scans(40, 40, 100),
        "photo with scans in its profile": encoded("JPEG", icc_profile=b"\xff\xda\0\2" * 50_000, progressive=True),
        "photo with scans in its comment": encoded("JPEG", comment=b"\xff\xda" * 5000),
        "photo with scans behind": photo + b"\xff\xda\0\2" * 1000,
        "photo with a large EXIF": encoded("JPEG", exif=exif(make="x" * 60_000)),
        "photo with a looping EXIF": encoded("JPEG", exif=looping_exif()),
        "photo with an unknown orientation": encoded("JPEG", exif=exif(orientation=99)),
        "photo with a large profile": encoded("JPEG", icc_profile=b"\0" * 500_000),
        "photo with a document behind": photo + b"%PDF-1.7\n",
        "photo with an archive behind": photo + zipped(),
        "photo with a comment": encoded("JPEG", comment=b"<script>alert(1)</script>" * 1000),
        "page of 16 bits": encoded("PNG", grey16),
        "page of one bit": encoded("PNG", picture(mode="1")),
        "page with palette": encoded("PNG", picture(mode="P")),
        "page with a transparent palette": encoded("PNG", transparent),
        "page in grey with alpha": encoded("PNG", picture(mode="LA")),
        "page with alpha": encoded("PNG", picture(mode="RGBA")),
        "page with a colour key": encoded("PNG", transparency=(0, 0, 0)),
        "page with a zip in its text": zipped_in_text(),
        "page with a broken profile": small_png(chunk(b"iCCP", b"x\0\0" + zlib.compress(b"nonsense"))),
        "page without palette": png(8, 8, bytes(72), colour=3),
        "page without end": page[:-12],
        "page with text of another charset": small_png(chunk(b"tEXt", b"Comment\0" + bytes(range(128, 256)))),
        "page that moves": animated("PNG"),
        "web picture that moves": animated("WEBP"),
        "web picture without loss": encoded("WEBP", lossless=True),
        "web picture with alpha": encoded("WEBP", picture(mode="RGBA")),
        "one pixel": encoded("PNG", picture(1, 1)),
    }
    for orientation in range(1, 9):
        made[f"photo of orientation {orientation}"] = encoded("JPEG", exif=exif(orientation=orientation))
    return made


@cache
def addresses() -> dict[bytes, str]:
    """Values of image_url_input -> pattern of the error."""
    return {
        b"file:///etc/passwd": "neither a data URI",
        b"/etc/passwd": "neither a data URI",
        b"FILE:/etc/passwd": "neither a data URI",
        b"gopher://127.0.0.1:70/_x": "neither a data URI",
        b"http://127.0.0.1:8000/v2/repository/index": "not among the image hosts",
        b"http://169.254.169.254/latest/meta-data/": "not among the image hosts",
        b"http://[::1]:8000/": "not among the image hosts",
        b"https://user:secret@example.com/x.png": "user name or password",
        b"https://example.com\\@127.0.0.1/x.png": "user name or password",
        b"http://\x00": "malformed|not among the image hosts",
        b"https://" + b"a" * 1_000_000: "malformed",
        b"data:": "not base64",
        b"data:,": "not base64",
        b"data:;base64,": "holds ''",
        b"data:text/html;base64,PHNjcmlwdD4=": "holds 'text/html'",
        b"data:image/svg+xml;base64,PHN2Zz4=": "holds 'image/svg",
        b"data:image/png;base64,": UNREADABLE,
        b"data:image/png;base64,====": "not valid base64",
        b"data:image/png;base64,\xff\xfe": "not valid base64",
        b"data:image/png;base64," + b"A" * 1001: "not valid base64",
        b"data:image/png;base64," + b" \n" * 50_000: UNREADABLE,
        b"data:" + b"image/png;" * 50_000 + b"base64,AAAA": UNREADABLE,
        b"x" * 1_000_000: "neither a data URI",
    }


@cache
def texts() -> dict[str, bytes]:
    """Odd texts; each is answered, or refused for what it is."""
    return {
        "nothing": b" ",
        "no text": b"\0\0\0",
        "controls": bytes(range(1, 32)),
        "no UTF-8": b"\xff\xfe\xc0\x80",
        "a lone surrogate": b"\xed\xa0\x80",
        "beyond the last character": b"\xf4\x90\x80\x80",
        "direction": "\u202e evil \u202d \u2066".encode(),
        "joined": ("👩‍👩‍👧‍👦" * 50).encode(),
        "combined": ("a" + "\u0301" * 400).encode(),
        "template": b"{text} {{ 7*7 }} {% for x in y %} %s %(x)s ${HOME} $(id)",
        "tokens of the model": b"</s><s><unk><pad><|im_end|>",
        "bytes of the tokenizer": b"<0x0A><0xFF>",
        "marks": b"<image>" * 200,
        "numbered marks": b"<|image_1|><|image_99999999999999999999|>",
        "half a mark": b"<image",
        "a long word": b"a" * 100_000,
        "long": b"word and " * 100_000,
    }
