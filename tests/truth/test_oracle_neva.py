"""NeVA's oracle: its answers tell right from wrong, its rows are the vision module's, its language model is NeMo's."""

from __future__ import annotations

import io
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional

from generator.oracle.neva import NevaOracle, read_archive
from tests import checkpoints, photos
from tests.checkpoints import neva
from tests.truth import oracle_checks

MODULE = oracle_checks.vision_module("neva_layout")
BOS = 1


@cache
def oracle() -> NevaOracle:
    return NevaOracle(checkpoints.cached("neva"))


def test_answers_are_distinct() -> None:
    oracle_checks.assert_answers_are_distinct(oracle())


def test_mutations_change_the_text() -> None:
    oracle_checks.assert_mutations_change_the_text(oracle(), BOS, cases=4)


@pytest.mark.parametrize("name", ["china", "tall", "tiny"])
def test_module_gives_the_same_rows(name: str) -> None:
    pixels = oracle().pixels([photos.encoded(name)])
    tower = MODULE.load(str(checkpoints.cached("neva") / "neva.nemo"), torch.bfloat16).eval()
    with torch.inference_mode():
        rows = tower(torch.from_numpy(pixels).bfloat16())
    assert rows.dtype == torch.bfloat16
    assert rows.shape == (1, 728, 64)
    np.testing.assert_array_equal(rows.float().numpy(), oracle().rows(pixels))


def test_class_token_length_decides_the_number_of_rows(tmp_path: Path) -> None:
    """With none to drop, all 729 patches of SigLIP become rows; else the first is missing."""
    neva.make(tmp_path, class_token_length=0)
    whole = NevaOracle(tmp_path)
    pixels = whole.pixels([photos.encoded("coffee")])
    rows = whole.rows(pixels)
    assert rows.shape == (1, 729, 64)
    assert len(whole.ids("Why?", [photos.encoded("coffee")])) == 1 + len(
        oracle().ids("Why?", [photos.encoded("coffee")])
    )
    np.testing.assert_allclose(rows[:, 1:], oracle().rows(pixels), rtol=0.05, atol=0.05)
    with torch.inference_mode():
        module_rows = MODULE.load(str(tmp_path), torch.bfloat16).eval()(torch.from_numpy(pixels).bfloat16())
    np.testing.assert_array_equal(module_rows.float().numpy(), rows)


def test_prompt_and_ids() -> None:
    truth, image = oracle(), photos.encoded("tiny")
    before = "<extra_id_0>System\n\n<extra_id_1>User\n"
    after = "\nWhy?\n<extra_id_1>Assistant\n"
    assert truth.prompt("Why?", 1) == f"{before}<image>{after}"
    encode = truth.tokenizer.encode
    assert truth.ids("Why?", [image]) == [*encode(before), *[-1] * 728, *encode(after)]
    assert BOS not in truth.ids("Why?", [image])
    assert truth.ids("a <image> b", [image], raw=True) == [*encode("a "), *[-1] * 728, *encode(" b")]
    assert encode("<extra_id_1>")[-1] == truth.tokenizer.piece_to_id("<extra_id_1>") == truth.end_ids[1]
    for text, images in (("<image> why?", [image]), ("Why?", []), ("Why?", [image, image])):
        with pytest.raises(ValueError, match="takes one image"):
            truth.ids(text, images)


def test_stop_words_end_an_answer_and_are_no_part_of_it() -> None:
    hello = oracle().tokenizer.encode("Hello there")
    assert oracle().text([*hello, oracle().end_ids[1]]) == "Hello there"
    assert {oracle().tokenizer.id_to_piece(token) for token in oracle().end_ids} == {
        "</s>",
        "<extra_id_1>",
        "<extra_id_7>",
    }


def test_first_layer_is_megatrons() -> None:
    """One layer in fp32, written out after Megatron's own order of the fused projection, against transformers'."""
    config, weights, _ = read_archive(checkpoints.cached("neva") / "neva.nemo")
    prefix = "model.decoder.layers.0."
    names = [name for name in weights if name.startswith(prefix) and not name.endswith("_extra_state")]
    layer = {name.removeprefix(prefix): weights[name].float() for name in names}
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    size, length = hidden // heads, 5
    x = torch.randn(length, hidden, generator=torch.Generator().manual_seed(0))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        gain = 1 + layer[f"{name}.layer_norm_weight"]
        return functional.layer_norm(x, (hidden,), gain, layer[f"{name}.layer_norm_bias"], 1e-5)

    def rotated(x: torch.Tensor) -> torch.Tensor:
        """Positions turn the first half of each head, as pairs (i, i + size / 4)."""
        quarter = size // 4
        angles = torch.arange(length)[:, None, None] * 10000.0 ** (-torch.arange(quarter) / quarter)
        one, two, rest = x[..., :quarter], x[..., quarter : 2 * quarter], x[..., 2 * quarter :]
        turned = (one * angles.cos() - two * angles.sin(), two * angles.cos() + one * angles.sin())
        return torch.cat([*turned, rest], dim=-1)

    fused = functional.linear(norm(x, "self_attention.linear_qkv"), layer["self_attention.linear_qkv.weight"])
    query, key, value = fused.view(length, heads, 3, size).unbind(2)  # head by head: query, key, value
    scores = torch.einsum("qhd,khd->hqk", rotated(query), rotated(key)) / size**0.5
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).reshape(length, hidden)
    x1 = x + functional.linear(mixed, layer["self_attention.linear_proj.weight"])
    grown = functional.relu(functional.linear(norm(x1, "mlp.linear_fc1"), layer["mlp.linear_fc1.weight"])) ** 2
    expected = x1 + functional.linear(grown, layer["mlp.linear_fc2.weight"])

    model = NevaOracle(checkpoints.cached("neva")).model.float()
    with torch.inference_mode():
        states = model(inputs_embeds=x[None], output_hidden_states=True).hidden_states
    torch.testing.assert_close(states[1][0], expected, rtol=1e-4, atol=1e-4)


def test_published_names_of_weights() -> None:
    config, weights, _ = read_archive(checkpoints.cached("neva") / "neva.nemo")
    embedding = weights["model.embedding.word_embeddings.weight"]
    assert embedding.shape == (neva.PADDED_VOCABULARY, config["hidden_size"])  # more rows than the tokenizer has tokens
    assert oracle().tokenizer.vocab_size() < neva.PADDED_VOCABULARY
    assert {weight.dtype for weight in weights.values() if isinstance(weight, torch.Tensor)} == {torch.bfloat16}
    assert any(name.endswith("_extra_state") and isinstance(state, io.BytesIO) for name, state in weights.items())


def changed(folder: Path, **multimodal: object) -> str:
    """A copy of the archive beside its tower, entries of mm_cfg replaced."""
    source = checkpoints.cached("neva")
    (folder / "siglip-so400m-patch14-384").symlink_to(source / "siglip-so400m-patch14-384")
    with tarfile.open(source / "neva.nemo") as old, tarfile.open(folder / "neva.nemo", "w") as new:
        for member in old:
            content = old.extractfile(member).read()  # type: ignore[union-attr]
            if member.name.endswith("model_config.yaml"):
                config = yaml.safe_load(content)
                config["mm_cfg"] |= multimodal
                content = yaml.safe_dump(config).encode()
                member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return str(folder)


def test_module_refuses_a_projector_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neva\.nemo.*'mlp_downsample'.*mlp2x_gelu"):
        MODULE.load(changed(tmp_path, mm_mlp_adapter_type="mlp_downsample"), torch.bfloat16)


def test_module_names_the_missing_tower(tmp_path: Path) -> None:
    encoder = {"from_pretrained": "google/no-such-tower", "class_token_length": 1}
    with pytest.raises(ValueError, match=r"google/no-such-tower.*download it to"):
        MODULE.load(changed(tmp_path, vision_encoder=encoder), torch.bfloat16)


def test_module_needs_an_archive_with_a_vision_side(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found none"):
        MODULE.load(str(tmp_path), torch.bfloat16)


class Touch:
    """Pickled code that would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_module_executes_nothing_of_the_archive(tmp_path: Path) -> None:
    changed(tmp_path)
    content = io.BytesIO()
    torch.save({"weights": Touch(tmp_path / "executed")}, content)
    with tarfile.open(tmp_path / "neva.nemo") as old:
        config = old.extractfile("./model_config.yaml").read()  # type: ignore[union-attr]
    with tarfile.open(tmp_path / "neva.nemo", "w") as new:
        for name, data in (("./model_config.yaml", config), ("./model_weights.ckpt", content.getvalue())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    with pytest.raises(Exception, match="Weights only load failed"):
        MODULE.load(str(tmp_path), torch.bfloat16)
    assert not (tmp_path / "executed").exists()
    torch.load(io.BytesIO(content.getvalue()), weights_only=False)  # which the test would notice
    assert (tmp_path / "executed").exists()
