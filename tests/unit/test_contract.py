"""The contract data: complete for every release, and the known changes between releases."""

from __future__ import annotations

import pytest

from generator import contract
from generator.findings import EXIT_USAGE, Refused

TYPES = {"INT32", "INT64", "UINT8", "UINT64", "FP16", "FP32", "BOOL", "STRING"}


@pytest.mark.parametrize("release", contract.releases())
def test_every_release_is_complete(release: str) -> None:
    known = contract.contract(release)
    for tensor in (*known.inputs.values(), *known.outputs.values(), *known.public_inputs.values()):
        assert tensor.type in TYPES or tensor.type.startswith("${"), tensor
        assert tensor.dims and all(d == -1 or d > 0 for d in tensor.dims)
    assert {
        "input_ids",
        "input_lengths",
        "request_output_len",
        "prompt_embedding_table",
    } <= known.inputs.keys()
    assert {"output_ids", "sequence_length"} <= known.outputs.keys()
    assert known.min_tokens in known.inputs and known.seed in known.inputs
    for parameter in known.parameters.values():
        assert parameter.emit is None or parameter.problem(parameter.emit) is None, parameter


@pytest.mark.parametrize(
    ("release", "present", "absent"),
    [
        ("0.12.0", {"min_length", "random_seed"}, {"prompt_table_extra_ids", "num_return_sequences"}),
        ("0.13.0", {"prompt_table_extra_ids"}, {"exclude_input_in_output"}),
        ("0.15.0", {"encoder_input_features"}, {"skip_cross_attn_blocks"}),
        ("0.19.0", {"min_length", "random_seed", "mrope_position_deltas"}, {"min_tokens", "seed"}),
        ("0.20.0", {"min_tokens", "seed"}, {"min_length", "random_seed"}),
        ("1.2.1", {"return_num_input_tokens"}, {"return_kv_cache_reuse_stats"}),
    ],
)
def test_inputs_come_and_go(release: str, present: set[str], absent: set[str]) -> None:
    names = contract.contract(release).inputs.keys()
    assert present <= names and not absent & names


def test_input_ids_become_optional_with_encoder_features() -> None:
    assert not contract.contract("0.14.0").inputs["input_ids"].optional
    assert contract.contract("0.15.0").inputs["input_ids"].optional


def test_keys_that_must_exist_are_written_from_0_19_on() -> None:
    assert contract.contract("0.19.0").parameters["tokenizer_dir"].emit == ""
    assert "tokenizer_dir" not in contract.contract("0.18.2").parameters


def test_public_inputs_are_those_of_all_releases() -> None:
    for release in contract.releases():
        names = contract.contract(release).public_inputs.keys()
        assert {"min_length", "min_tokens", "random_seed", "seed", "video_bytes_input"} <= names


def test_rank_of_the_image_input_follows_the_release() -> None:
    assert len(contract.contract("0.14.0").public_inputs["image_input"].dims) == 3
    assert len(contract.contract("0.15.0").public_inputs["image_input"].dims) == 4


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("0.16.0", "0.16.0"),
        ("0.16", "0.16.0"),
        ("v0.18.1", "0.18.1"),
        ("0.18", "0.18.2"),
        ("1.0.0.post1", "1.0.0"),
    ],
)
def test_releases_may_be_written_in_short(text: str, release: str) -> None:
    assert contract.resolve(text) == release


@pytest.mark.parametrize("text", ["", "0.11.0", "2.0", "latest", "0.18.7"])
def test_unknown_release_lists_the_known_ones(text: str) -> None:
    with pytest.raises(Refused, match="known are 0.12.0") as refused:
        contract.resolve(text)
    assert refused.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize(
    ("name", "value", "phrase"),
    [
        ("kv_cache_free_gpu_mem_fraction", "nan", "a number"),
        ("kv_cache_free_gpu_mem_fraction", " 5e-1", "a number"),
        ("max_tokens_in_paged_kv_cache", "100_000", "an integer"),
        ("kv_cache_free_gpu_mem_fraction", "-0.1", "at least 0"),
        ("max_beam_width", "1.5", "an integer"),
        ("batch_scheduler_policy", "fifo", "one of"),
        ("enable_chunked_context", "yes", "true or false"),
        ("gpu_device_ids", "0;", "comma list"),
        ("max_attention_window_size", "1,x", "comma list"),
    ],
)
def test_bad_parameter_values_are_explained(name: str, value: str, phrase: str) -> None:
    assert phrase in str(contract.contract("1.2.1").parameters[name].problem(value))
