"""--decode-scale: for models that scale every image to one size, and refused for others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from generator.generate import decide, files
from generator.options import Options

NOWHERE = Path("/nonexistent")


@pytest.mark.parametrize(
    ("model", "edge"),
    [("llava", 336), ("vila", 384), ("blip2-opt", 224), ("kosmos-2", 224), ("cogvlm", 490)],
)
def test_where_images_have_one_size(model: str, edge: int) -> None:
    for asked, expected in ((False, None), (True, edge)):
        options = Options(model=model, decode_scale=asked, working_dir=NOWHERE)
        plan, _, findings = decide(options)
        assert not [finding for finding in findings if finding.level == "error"]
        settings = json.loads(files(plan, options)["preprocessing/1/settings.json"])
        assert settings["pixels"]["decode_edge"] == expected


@pytest.mark.parametrize("model", ["llava-next", "phi-3-vision", "fuyu", "deplot", "nougat", "video-neva"])
def test_where_they_have_not(model: str) -> None:
    _, _, findings = decide(Options(model=model, decode_scale=True, working_dir=NOWHERE))
    [finding] = [finding for finding in findings if finding.level == "error"]
    assert finding.code == "decode-scale" and "--decode-scale" in finding.remedy
