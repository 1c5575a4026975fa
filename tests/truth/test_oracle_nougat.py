"""Nougat's oracle can tell right from wrong, and composes what transformers does in one call."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoProcessor, VisionEncoderDecoderModel

from generator.facts import checkpoint as facts
from generator.findings import Refused
from generator.models import specs
from generator.oracle.common import with_pillow
from generator.oracle.nougat import NougatOracle
from tests import checkpoints, pages
from tests.truth import oracle_checks

TOKENS = 12
ROWS = 28 * 21


@cache
def oracle() -> NougatOracle:
    return NougatOracle(checkpoints.cached("nougat"))


@cache
def rows(name: str) -> Any:
    return oracle().rows(oracle().pixels([pages.encoded(name)]))


def test_answers_are_distinct() -> None:
    answers = [oracle().continuation([0], rows(name), TOKENS) for name in pages.names()[:20]]
    assert len({oracle().text(ids) for ids in answers}) >= 18
    assert sum(len(set(ids)) > 2 for ids in answers) >= 18


@pytest.mark.parametrize("name", pages.names()[:6])
def test_mutations_change_the_text(name: str) -> None:
    """Attention does not see the order of the features; which there are, it does."""
    start, given = [oracle().start_id], rows(name)
    half, doubled = given[:, : ROWS // 2], np.concatenate([given, np.zeros_like(given)], axis=1)
    unturned = oracle().pixels([pages.encoded(name)])[..., ::-1].copy()
    wrong = {
        "another page": (start, rows("two columns")),
        "half of the rows": (start, half),
        "rows of nothing": (start, doubled),
        "mirrored": (start, oracle().rows(unturned)),
        "one BOS more": ([*start, *start], given),
        "another start": ([oracle().end_ids[0]], given),
    }
    right = oracle().continuation(start, given, 2 * TOKENS)
    same = [what for what, case in wrong.items() if oracle().continuation(*case, 2 * TOKENS) == right]
    assert same == []


def test_one_precision_alone_is_one_call_of_transformers() -> None:
    """Everything in bf16: pixels, encoder and decoder together, as transformers' own guide to the model calls them."""
    whole = VisionEncoderDecoderModel.from_pretrained(checkpoints.cached("nougat"), dtype=torch.bfloat16).eval()
    processor = with_pillow(AutoProcessor, checkpoints.cached("nougat"))
    options = transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=TOKENS,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
        bad_words_ids=[[processor.tokenizer.unk_token_id]],
    )
    whole.generation_config = options
    for name in pages.names()[:4]:
        pixels = processor(images=oracle_image(name), return_tensors="pt")["pixel_values"].bfloat16()
        with torch.inference_mode():
            produced = whole.generate(pixels, generation_config=options)[0].tolist()
            states = whole.encoder(pixels).last_hidden_state.float().numpy()
        assert produced == [0, *oracle().continuation([0], states, TOKENS)]


def oracle_image(name: str) -> Any:
    from generator.oracle.common import open_image

    return open_image(pages.encoded(name))


def test_the_unknown_token_would_come_but_is_banned() -> None:
    """A decoder that prefers <unk> to everything gives its second choice."""
    loud = NougatOracle(checkpoints.cached("nougat"))
    unknown = int(loud.tokenizer.unk_token_id)
    head = loud.model.decoder.lm_head
    with torch.no_grad():
        # the last norm's bias is the same at every position: a row along it always wins
        head.weight[unknown] = 50 * loud.model.decoder.model.decoder.layer_norm.bias.sign()
    ids = loud.continuation([0], rows("a4"), TOKENS)
    with torch.inference_mode():
        logits = loud.model(
            encoder_outputs=(torch.from_numpy(rows("a4")).bfloat16(),), decoder_input_ids=torch.tensor([[0]])
        ).logits[0, -1]
    assert unknown not in ids
    assert int(logits.argmax()) == unknown


def test_vision_module() -> None:
    module = oracle_checks.vision_module("hf_nougat")
    tower = module.load(str(checkpoints.cached("nougat")), torch.float16).eval()
    for name in pages.names()[:4]:
        pixels = oracle().pixels([pages.encoded(name)])
        with torch.inference_mode():
            found = tower(torch.from_numpy(pixels)).numpy()
        assert found.shape == (1, ROWS, 64)
        np.testing.assert_array_equal(found, oracle().rows(pixels))


def test_published_names_of_weights_are_understood() -> None:
    oracle_checks.assert_published_names_are_understood(VisionEncoderDecoderModel, checkpoints.cached("nougat"))


def changed(folder: Path, **values: Any) -> Path:
    """The tiny checkpoint with other values in its preprocessor_config.json."""
    made = folder / "checkpoint"
    shutil.copytree(checkpoints.cached("nougat"), made)
    config = json.loads((made / "preprocessor_config.json").read_text()) | values
    (made / "preprocessor_config.json").write_text(json.dumps(config))
    return made


def test_the_checkpoints_own_processor_is_followed(tmp_path: Path) -> None:
    spec = specs()["nougat"]
    size = {"height": 448, "width": 672}
    made = changed(tmp_path, do_align_long_axis=True, do_crop_margin=False, size=size, resample=3)
    found = facts.read(made, spec, spec.variants[0])
    assert found.layout == {"size": size, "crop_margin": False, "align_long_axis": True}
    assert found.pixels is not None and (found.pixels.shape, found.pixels.resample) == ((3, 448, 672), 3)
    assert found.rows_per_image == ROWS and found.start_token_id == 0  # of the encoder's own image_size
    assert (found.vocab_size, found.hidden_size, found.max_positions) == (1000, 64, 512)


@pytest.mark.parametrize("name", ["do_resize", "do_thumbnail", "do_pad"])
def test_a_processor_that_gives_other_sizes_is_refused(name: str, tmp_path: Path) -> None:
    spec = specs()["nougat"]
    with pytest.raises(Refused) as refused:
        facts.read(changed(tmp_path, **{name: False}), spec, spec.variants[0])
    [finding] = refused.value.findings
    assert f"{name} of preprocessor_config.json is False, Nougat is served with True" in finding.what
