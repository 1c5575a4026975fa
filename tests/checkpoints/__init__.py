"""Tiny random checkpoints in the layout of the published ones: real configurations, real tokenizers.

`make` writes one, `cached` shares it between test processes. A new model is one module with a maker and one line
in `MAKERS`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests import vocabularies
from tests.checkpoints import blip2, cogvlm, common, deplot, fuyu, kosmos2, llava, neva, nougat, phi3_vision, vila

MAKERS: dict[str, Callable[[Path], None]] = {
    "blip2-opt": blip2.make_opt,
    "blip2-t5": blip2.make_t5,
    "cogvlm": cogvlm.make,
    "deplot": deplot.make,
    "fuyu": fuyu.make,
    "kosmos-2": kosmos2.make,
    "llava": llava.make_1_5,
    "llava-next": partial(llava.make_next, language_model=llava.mistral, seed=5),
    "llava-next-hermes-2": partial(llava.make_next, language_model=llava.hermes_2, seed=6),
    "neva": neva.make,
    "nougat": nougat.make,
    "phi-3-vision": phi3_vision.make,
    "phi-3-vision-4": partial(phi3_vision.make, num_crops=4),
    "video-neva": neva.make_video,
    "vila": partial(vila.make, language_model=vila.vicuna, seed=70),
    "vila-llama_3": partial(vila.make, language_model=vila.llama_3, seed=80),
    "vila-hermes-2": partial(vila.make, language_model=vila.hermes_2, seed=30),
}


def make(name: str, folder: Path) -> Path:
    """Write the checkpoint `name` (a key of `MAKERS`) into `folder`, which is created; returns `folder`.

    Equal calls give equal bytes. KeyError for an unknown name.
    """
    maker = MAKERS[name]
    folder.mkdir(parents=True, exist_ok=True)
    maker(folder)
    return folder


def cached(name: str) -> Path:
    """Folder of the checkpoint `name`, made once for each version of the makers; treat it as read-only.

    It lies below $TEST_CHECKPOINTS, or else below the temporary folder. Processes that make it at the same
    time each write a private folder, and the first to rename it wins.
    """
    root = Path(os.environ.get("TEST_CHECKPOINTS") or Path(tempfile.gettempdir(), "tiny-checkpoints"))
    target = root / f"{name}-{_sources_digest(MAKERS[name])}"
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    private = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
    try:
        make(name, private)
        private.chmod(0o755)
        private.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(private, ignore_errors=True)
    return target


def _sources_digest(maker: Callable[[Path], None]) -> str:
    """Of what the checkpoint's bytes depend on: its maker's module, what that imports from here, and the libraries."""
    import numpy
    import tokenizers
    import torch
    import transformers

    module = importlib.import_module(getattr(maker, "func", maker).__module__)
    used = {getattr(value, "__module__", None) or getattr(value, "__name__", "") for value in vars(module).values()}
    names = sorted({name for name in used if name.startswith("tests.")} | {module.__name__, common.__name__})
    sources = [
        Path(str(importlib.import_module(name).__file__)).read_bytes() for name in (*names, vocabularies.__name__)
    ]
    versions = json.dumps([library.__version__ for library in (numpy, tokenizers, torch, transformers)])
    return hashlib.sha256(b"".join(sources) + versions.encode()).hexdigest()[:12]
