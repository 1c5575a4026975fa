"""--set reaches every parameter of the release, and what fails together is refused with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from generator import contract, render
from generator.check import configs
from generator.findings import Finding
from generator.generate import decide, files
from generator.models import specs
from generator.options import Options
from generator.parameters import DECIDED
from generator.routes import ROUTES
from tests import engines

NOWHERE = Path("/nonexistent")
# A value that each kind of parameter takes; those that are only accepted beside others are tested below.
VALUES = {"bool": "true", "int": "3", "float": "0.5", "string": "x", "int_list": "512,1024", "gpu_groups": "1"}
NEED_OTHERS = {
    "decoding_mode": {"max_beam_width": "2"},
    "guided_decoding_backend": {"xgrammar_tokenizer_info_path": "/info.json"},
    "xgrammar_tokenizer_info_path": {"guided_decoding_backend": "xgrammar"},
}
REFUSED_HERE = {"cross_kv_cache_fraction", *(f"lookahead_{n}" for n in ("window_size", "ngram_size"))}
REFUSED_HERE |= {"lookahead_verification_set_size"}


def asked(values: dict[str, str], **options: object) -> tuple[dict[str, str], list[Finding]]:
    """Parameters of the plan, and findings about them."""
    chosen = tuple(("tensorrt_llm", name, value) for name, value in values.items())
    made = Options(**({"model": "llava", "working_dir": NOWHERE, "set": chosen} | options))  # type: ignore[arg-type]
    plan, _, findings = decide(made)
    return plan.llm_parameters | plan.llm_queue, [f for f in findings if f.code != "not-servable-yet"]


@pytest.mark.parametrize("release", contract.releases())
def test_every_parameter_of_a_release_can_be_set(release: str) -> None:
    known = contract.contract(release).parameters
    for name, parameter in known.items():
        if name in DECIDED or name in REFUSED_HERE:
            continue
        value = {"decoding_mode": "beam_search"}.get(
            name, parameter.choices[-1] if parameter.choices else VALUES[parameter.type]
        )
        if name == "gpu_weights_percent":
            value = "0.5"
        decided, findings = asked({name: value, **NEED_OTHERS.get(name, {})}, release=release)
        assert [f for f in findings if f.level == "error"] == [], (name, value)
        assert decided[name] == value


def test_queue_settings_reach_the_config() -> None:
    chosen = (("tensorrt_llm", "max_queue_delay_microseconds", "500"), ("tensorrt_llm", "max_queue_size", "64"))
    options = Options(model="llava", working_dir=NOWHERE, set=chosen)
    plan, _, findings = decide(options)
    assert [f.code for f in findings] == ["not-servable-yet"]
    config = configs.parse(files(plan, options)["tensorrt_llm/config.pbtxt"].decode())
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 64


@pytest.mark.parametrize(
    ("name", "release", "value", "fine"),
    [
        ("decoding_mode", "0.15.0", "medusa", True),
        ("decoding_mode", "0.15.0", "eagle", False),
        ("decoding_mode", "0.16.0", "eagle", True),
        ("max_attention_window_size", "0.12.0", "512,256", False),
        ("max_attention_window_size", "0.13.0", "512,256", True),
        ("participant_ids", "0.14.0", "1;2", False),
        ("participant_ids", "0.15.0", "1;2", True),
        ("gpt_model_type", "0.19.0", "V1", True),
        ("gpt_model_type", "0.20.0", "V1", False),
    ],
)
def test_values_come_and_go_with_releases(name: str, release: str, value: str, fine: bool) -> None:
    assert (contract.contract(release).parameters[name].problem(value) is None) == fine


@pytest.mark.parametrize(
    ("values", "options", "says"),
    [
        ({"decoding_mode": "lookahead"}, {}, "issues 6009 and 3137"),
        ({"decoding_mode": "medusa"}, {}, "draft heads"),
        ({"decoding_mode": "beam_search"}, {}, "max_beam_width 1"),
        ({"decoding_mode": "top_k", "max_beam_width": "2"}, {}, "top_k with max_beam_width 2"),
        ({"lookahead_window_size": "7"}, {}, "decoding_mode lookahead only"),
        ({"enable_chunked_context": "true"}, {"model": "llava-next"}, "pull request 3380, issue 8651"),
        ({"enable_chunked_context": "true"}, {"model": "phi-3-vision"}, "out of order"),
        ({"kv_cache_host_memory_bytes": "1000"}, {"kv_cache_reuse": True}, "issue 8813"),
        ({"cross_kv_cache_fraction": "0.5"}, {}, "LLaVA-1.5's does not"),
        ({"gpu_device_ids": "0,1"}, {}, "names 2 for an instance, the LLM runs on 1"),
        ({"gpu_device_ids": "0,1;2"}, {"tp": 2}, "names 1 for an instance, the LLM runs on 2"),
        ({"participant_ids": "1"}, {"tp": 2, "pp": 2}, "the LLM runs on 4"),
        ({"guided_decoding_backend": "xgrammar"}, {}, "needs xgrammar_tokenizer_info_path"),
        ({"xgrammar_tokenizer_info_path": "/f"}, {}, "with guided_decoding_backend only"),
    ],
)
def test_pairs_that_fail_are_refused(values: dict[str, str], options: dict[str, object], says: str) -> None:
    _, findings = asked(values, **options)
    [found] = [f for f in findings if f.level == "error"]
    assert found.code == "bad-pair" and says in found.what and found.remedy
    assert found.where.startswith("--set tensorrt_llm.")


def test_pairs_that_work_are_accepted() -> None:
    for values, options in (
        ({"enable_chunked_context": "true"}, {"model": "vila"}),
        ({"gpu_device_ids": "0,1;2,3"}, {"tp": 2}),
        ({"decoding_mode": "beam_search", "max_beam_width": "2"}, {}),
        ({"kv_cache_host_memory_bytes": "1000"}, {}),
        ({"kv_cache_host_memory_bytes": "0"}, {"kv_cache_reuse": True}),
    ):
        _, findings = asked(values, **options)
        assert findings == [], values


@pytest.mark.parametrize(
    ("engine", "values", "options", "says"),
    [
        ({}, {"max_beam_width": "4"}, {}, "max_beam_width 4 exceeds the LLM engine's 1"),
        ({}, {"enable_chunked_context": "true"}, {}, "built with paged context attention"),
        ({"version": "0.19.0"}, {"lora_prefetch_dir": "/l"}, {}, "--lora_plugin"),
        ({}, {"gpu_weights_percent": "0.5"}, {}, "--weight_streaming"),
        (
            {"kv_cache": "FP8", "plugins": {"use_paged_context_fmha": True}},
            {},
            {"kv_cache_reuse": True},
            "a cache in FP8 gave wrong answers: NVIDIA/TensorRT-LLM issue 2699",
        ),
    ],
)
def test_engine_decides_what_can_be_set(
    engine: dict[str, object], values: dict[str, str], options: dict[str, object], says: str, tmp_path: Path
) -> None:
    folder = engines.llm(tmp_path / "llm", **engine)  # type: ignore[arg-type]
    _, findings = asked(values, llm_engine_dir=folder, **options)
    [found] = [f for f in findings if f.level == "error"]
    assert says in found.what and found.remedy


def test_settings_without_effect_are_said() -> None:
    _, findings = asked({"multi_block_mode": "true"}, release="0.14.0")
    assert [(f.level, f.code) for f in findings] == [("warning", "no-effect")] and "multiBlockMode" in findings[0].what
    _, findings = asked({"enable_trt_overlap": "true", "max_beam_width": "2"}, release="1.2.1")
    assert [f.code for f in findings] == ["no-effect"]


def test_the_last_step_of_the_script_repeats_what_was_asked() -> None:
    chosen = (("tensorrt_llm", "max_queue_size", "5"), ("tensorrt_llm", "executor_worker_path", "/a b"))
    options = Options(model="llava", working_dir=NOWHERE, set=chosen, release="25.08", streaming=True)
    plan, _, _ = decide(options)
    text = render.top_level(plan, "build_engines.sh.jinja").decode()
    assert "--release 25.08 --streaming --set tensorrt_llm.max_queue_size=5" in text
    assert "--set 'tensorrt_llm.executor_worker_path=/a b'" in text


@pytest.mark.parametrize("model", specs())
def test_chunked_context_is_refused_where_rows_are_picked_out_of_order(model: str) -> None:
    spec = specs()[model]
    _, findings = asked({"enable_chunked_context": "true"}, model=model)
    unread = ROUTES[spec.routes[0]].parameters
    wanted = ["unknown-set"] if unread else [] if spec.layout.in_order else ["bad-pair"]
    assert [f.code for f in findings if f.level == "error"] == wanted


@pytest.mark.parametrize("model", [name for name, spec in specs().items() if ROUTES[spec.routes[0]].parameters])
def test_steps_of_our_own_take_the_parameters_that_they_read(model: str) -> None:
    route = ROUTES[specs()[model].routes[0]]
    known = contract.contract(specs()[model].default_release).parameters
    for name, parameter in known.items():
        if name in DECIDED:
            continue
        value = parameter.choices[-1] if parameter.choices else VALUES[parameter.type]
        decided, findings = asked({name: value}, model=model)
        refused = [f.what for f in findings if f.code == "unknown-set"]
        assert bool(refused) == (name not in route.parameters), name
        assert refused or decided[name] == value
