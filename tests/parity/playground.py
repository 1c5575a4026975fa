"""The gateway's page in a browser, as its tests see it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import browser

ANSWERED = "document.querySelectorAll('.turn[data-state]').length === {}"


@contextlib.contextmanager
def playground(url: str, model: str, scratch: Path) -> Iterator[browser.Page]:
    """The page at `url` once it knows its model. Skips the test where there is no browser."""
    if browser.installed() is None:
        pytest.skip(f"no browser on PATH: {', '.join(browser.NAMES)}")
    with browser.page(scratch) as opened:
        opened.open(url)
        opened.until(f"document.getElementById('model').textContent === '{model}'")
        yield opened


def turn(page: browser.Page, number: int) -> dict[str, Any]:
    """What the page shows of a turn."""
    found: dict[str, Any] = page.value(
        f"(t => ({{state: t.dataset.state, pictures: t.querySelectorAll('img').length,"
        " loaded: [...t.querySelectorAll('img')].every(i => i.naturalWidth > 0),"
        " answer: t.querySelector('.answer').textContent, times: t.querySelector('.times').innerText,"
        " rows: [...t.querySelectorAll('tr')].map(r => r.innerText.split('\\t').map(s => s.trim())),"
        " error: t.querySelector('.error')?.textContent ?? null}))"
        f"(document.querySelectorAll('.turn')[{number}])"
    )
    return found
