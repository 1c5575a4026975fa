"""CogVLM's oracle: its answers tell right from wrong, positions and experts included; its rows are the vision module's.

That the oracle is the published code was seen outside of the project: on these weights the ids, positions, rows and
logits of the two were equal bit for bit.
"""

from __future__ import annotations

import json
import shutil
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from generator.oracle.cogvlm import CogvlmOracle, experts, positions
from tests import checkpoints, photos
from tests.checkpoints import cogvlm
from tests.truth import oracle_checks

MODULE = oracle_checks.vision_module("cogvlm_layout")
LLM_MODULES = Path(__file__).parents[2] / "templates/torch/tensorrt_llm/1"
BOS = 1


def checkpoint() -> Path:
    return checkpoints.cached("cogvlm") / cogvlm.FOLDER


@cache
def oracle() -> CogvlmOracle:
    return CogvlmOracle(checkpoint())


def test_answers_are_distinct() -> None:
    oracle_checks.assert_answers_are_distinct(oracle(), cases=20)


def test_mutations_change_the_text() -> None:
    oracle_checks.assert_mutations_change_the_text(oracle(), BOS, cases=4)


@pytest.mark.parametrize("number", [0, 1])
def test_positions_and_experts_change_the_text(number: int) -> None:
    text, image = photos.PROMPTS[number], [oracle_checks.picture(number)]
    ids, rows = oracle().ids(text, image), oracle().rows(oracle().pixels(image))
    visual = torch.tensor([token == oracle().image_id for token in ids])
    places, seen = positions(visual), experts(visual)
    last = int(visual.nonzero()[-1])
    counted = torch.arange(len(ids))
    shared_end = torch.where(counted == last, 2, places - (counted > last).long())
    end_seen = seen | (counted == last)
    wrong = {
        "positions that count tokens": (counted, seen),
        "the end row at the patches' position": (shared_end, seen),
        "one position more behind the image": (places + (counted > last).long(), seen),
        "no experts": (places, torch.zeros_like(seen)),
        "the end row read by the experts": (places, end_seen),
    }
    right = oracle().text(oracle().decoded(ids, rows, places, seen, oracle_checks.MUTATED_TOKENS))
    for what, case in wrong.items():
        found = oracle().text(oracle().decoded(ids, rows, *case, oracle_checks.MUTATED_TOKENS))
        assert found != right, what


def test_prompt_and_ids() -> None:
    image, encode = photos.encoded("tiny"), oracle().tokenizer.encode
    after = encode("Question: Why? Answer:", add_special_tokens=False)
    assert oracle().ids("Why?", [image]) == [BOS, *[-1] * 1227, *after]
    raw = encode(" [INST] Why? [/INST] ", add_special_tokens=False)
    assert oracle().ids(" [INST] Why? [/INST] ", [image], raw=True) == [BOS, *[-1] * 1227, *raw]
    for text, images in (("<image> why?", [image]), ("Why?", []), ("Why?", [image, image])):
        with pytest.raises(ValueError, match="takes one image"):
            oracle().ids(text, images)


def test_positions_and_experts_of_a_prompt() -> None:
    visual = torch.tensor([0, 1, 1, 1, 1, 1, 0, 0]).bool()
    assert positions(visual).tolist() == [0, 1, 2, 2, 2, 3, 4, 5]
    assert experts(visual).tolist() == [False, True, True, True, True, False, False, False]


@pytest.mark.parametrize("name", ["china", "tall", "tiny"])
def test_module_gives_the_same_rows(name: str) -> None:
    pixels = oracle().pixels([photos.encoded(name)])
    tower = MODULE.load(str(checkpoint()), torch.bfloat16).eval()
    with torch.inference_mode():
        rows = tower(torch.from_numpy(pixels).bfloat16())
    assert rows.dtype == torch.bfloat16 and rows.shape == (1, 1227, 64)
    np.testing.assert_array_equal(rows.float().numpy(), oracle().rows(pixels))


def changed(folder: Path, config: dict[str, object] | None = None, without: str = "") -> Path:
    """A copy of the checkpoint with other entries in config.json, or without weights of a name."""
    folder.mkdir(exist_ok=True)
    stated = json.loads((checkpoint() / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stated | (config or {})))
    weights = load_file(checkpoint() / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not without or without not in name}
    save_file(kept, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("part", ["linear_proj.gate_proj", "vision.boi", "vision"])
def test_vision_module_names_what_is_missing(tmp_path: Path, part: str) -> None:
    with pytest.raises(ValueError, match="first generation|download the checkpoint's weights again"):
        MODULE.load(str(changed(tmp_path, without=part)), torch.bfloat16)


def test_llm_module_names_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(LLM_MODULES))
    sys.modules.pop("cogvlm_llm", None)
    import cogvlm_llm

    def load(folder: Path) -> object:
        return cogvlm_llm.load({"checkpoint": str(folder)}, torch.bfloat16)

    with pytest.raises(ValueError, match="is CogVLM2"):
        load(changed(tmp_path, {"num_multi_query_heads": 2}))
    with pytest.raises(ValueError, match=r"(?s)first generation.*vision_expert_dense"):
        load(changed(tmp_path, without="layers.1.self_attn.vision_expert_dense"))
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no .safetensors file"):
        load(tmp_path)


def test_frequencies_are_the_checkpoints_or_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(LLM_MODULES))
    import cogvlm_llm

    stated = cogvlm_llm.load({"checkpoint": str(checkpoint())}, torch.bfloat16).frequencies
    computed = cogvlm_llm.load({"checkpoint": str(changed(tmp_path, without="inv_freq"))}, torch.bfloat16).frequencies
    assert stated.dtype == torch.bfloat16 and stated.tolist() == computed.tolist()
    assert stated.tolist() == [1.0, 0.10009765625, 0.010009765625, 0.00099945068359375]
