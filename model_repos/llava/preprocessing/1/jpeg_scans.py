"""How many scans a JPEG has, counted before any is decoded: each costs time for every pixel, even without any data."""

from __future__ import annotations

import re

from tensors import RequestError

SIGNATURE = b"\xff\xd8\xff"
MOST_SCANS = 100  # libjpeg's own scripts write 10, or 6 for each of at most 4 channels
MOST_PARTS = 10_000  # segments, which Pillow reads one by one in Python; a profile of 16 MB has 255
MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # the others are data, or stand alone: restarts, fill bytes
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9


def check_scans(file: bytes) -> None:
    """Walk the segments as libjpeg does, so that profiles, thumbnails and what follows the image do not count.

    Raises RequestError for more scans or segments than any encoder writes, and where there is no scan at all.
    """
    scans = parts = 0
    place = 2
    while marker := MARKER.search(file, place):
        parts += 1 if scans else 1 + marker.start() - place  # Pillow reads fill bytes singly up to the first scan
        kind, place = file[marker.end() - 1], marker.end()
        if kind == END_OF_IMAGE:
            break
        scans += kind == START_OF_SCAN
        place += max(2, int.from_bytes(file[place : place + 2], "big"))  # of the segment, these 2 bytes included
        if scans > MOST_SCANS:
            raise RequestError(f"the JPEG has more than {MOST_SCANS} scans, the most allowed: save it anew")
        if parts > MOST_PARTS:
            raise RequestError(f"the JPEG has more than {MOST_PARTS} segments, the most allowed: save it anew")
    if not scans:
        raise RequestError("not a readable JPEG, PNG or WebP file: check or convert it")
