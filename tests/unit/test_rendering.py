"""What goes into a config comes back out of Triton's parser, whatever it is; both runtimes share their common steps."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator import contract, render
from generator.check import check, configs
from generator.findings import has_errors
from generator.generate import decide, files, generate
from generator.models import specs
from generator.options import Options
from generator.routes import ROUTES
from tests import engines

# Whatever a file system allows in a path, and characters that end strings in proto text, Jinja and the shell.
PATHS = st.text(
    st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)) | st.sampled_from("\"'{}%\\$`\n\r\t #;<>"),
    min_size=1,
    max_size=60,
)
NOWHERE = Path("/nonexistent")


def rendered(**changes: object) -> dict[str, bytes]:
    options = Options(**({"model": "llava", "working_dir": NOWHERE} | changes))  # type: ignore[arg-type]
    plan, _, findings = decide(options)
    assert not has_errors(findings), findings
    return files(plan, options)


@given(PATHS)
def test_quoted_text_comes_back_from_the_parser(text: str) -> None:
    config = configs.parse(f"name: {render.pbtxt(text)}")
    assert config.name == text


@given(PATHS)
def test_comments_stay_on_their_line(text: str) -> None:
    config = configs.parse(f"# {render.comment(text)}\nname: 'x'")
    assert config.name == "x"


@given(PATHS)
def test_shell_words_come_back_from_the_shell_grammar(text: str) -> None:
    quoted = render.environment(render.templates_root()).filters["sh"](text)
    assert shlex.split(quoted) == [text]


HOSTILE = '/data/it\'s "quoted" {{ 7*7 }} {% raw %} $(touch x) `id` \\ ünïcode\n日本 ; rm -rf'


@pytest.mark.parametrize("runtime", ["trtllm", "torch"])
def test_hostile_container_path_is_inert(runtime: str, tmp_path: Path) -> None:
    made = rendered(runtime=runtime, path_map=(("tmp", HOSTILE),))
    for name, content in made.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if runtime == "trtllm":
        llm = configs.parse(made["tensorrt_llm/config.pbtxt"].decode())
        path = llm.parameters["gpt_model_path"].string_value
        assert path.startswith(HOSTILE) and path.endswith("/llm")
    settings = json.loads(made["vision_encoder/1/settings.json"])
    assert str(settings.get("engine") or settings["checkpoint"]).startswith(HOSTILE)
    bash = shutil.which("bash")
    assert bash
    for script in (name for name in made if name.endswith(".sh")):
        subprocess.run([bash, "-n", tmp_path / script], check=True)
    if runtime == "trtllm":
        head = made["build_engines.sh"].decode().split("# 1. Weights.")[0] + 'printf %s "$checkpoint"'
        printed = subprocess.run([bash, "-c", head], check=True, capture_output=True, cwd=tmp_path).stdout.decode()
        assert printed.startswith(HOSTILE)
        assert not (tmp_path / "x").exists()
    assert not has_errors(check(tmp_path))


@pytest.mark.parametrize("model", specs())
@pytest.mark.parametrize("streaming", [False, True])
def test_common_steps_are_byte_identical_between_the_runtimes(model: str, streaming: bool) -> None:
    common = ("ensemble/", "preprocessing/", "postprocessing/", "tensorrt_llm_bls/")
    streaming = streaming and ROUTES[specs()[model].routes[0]].streams
    one = {
        p: c for p, c in rendered(model=model, runtime="trtllm", streaming=streaming).items() if p.startswith(common)
    }
    other = {
        p: c for p, c in rendered(model=model, runtime="torch", streaming=streaming).items() if p.startswith(common)
    }
    assert one == other and len(one) > 8


@pytest.mark.parametrize("release", contract.releases())
@pytest.mark.parametrize("model", specs())
def test_every_release_gives_a_valid_repository(model: str, release: str, tmp_path: Path) -> None:
    runtime = "trtllm" if contract.releases().index(release) % 2 else "torch"  # both runtimes, taking turns
    options = Options(
        model=model,
        release=release,
        runtime=runtime,  # type: ignore[arg-type]
        streaming=ROUTES[specs()[model].routes[0]].streams,
        output=tmp_path / "repo",
        working_dir=NOWHERE,
    )
    outcome = generate(options)
    findings = check(outcome.output)
    assert not has_errors(findings), "\n".join(map(str, findings))


def test_generation_is_deterministic() -> None:
    assert rendered() == rendered()


def test_name_prefixes_every_model() -> None:
    made = rendered(name="photos", streaming=True)
    folders = {path.split("/")[0] for path in made if "/" in path}
    assert folders == {
        "photos",
        *(f"photos_{role}" for role in ("preprocessing", "vision_encoder", "tensorrt_llm", "postprocessing")),
        "photos_tensorrt_llm_bls",
        "photos_llm_responses",
    }


def test_a_step_gets_only_modules_that_it_imports() -> None:
    made = rendered(runtime="torch", model="llava")
    assert "vision_encoder/1/hf_llava.py" in made
    assert "vision_encoder/1/vila_layout.py" not in made


def test_folders_are_mapped_by_any_of_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engines.llm(tmp_path / "real/engine")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    for named, host in (("link/engine", "link"), ("real/engine", "real"), ("link/engine", f"{tmp_path}/real")):
        options = Options(model="llava", llm_engine_dir=Path(named), path_map=((host, "/engines"),))
        plan, _, findings = decide(options)
        assert plan.paths.llm_engine == "/engines/engine"
        assert "path-map" not in {finding.code for finding in findings}
    options = Options(model="llava", llm_engine_dir=engine, path_map=(("/elsewhere", "/engines"),))
    [finding] = [finding for finding in decide(options)[2] if finding.code == "path-map"]
    assert finding.level == "warning" and "/elsewhere" in finding.what and str(engine) in finding.what


def test_longest_path_mapping_wins() -> None:
    from generator.planning import map_path

    mapping = (("/data", "/c"), ("/data/engines", "/e"))
    assert map_path(Path("/data/engines/llm"), mapping) == "/e/llm"
    assert map_path(Path("/data/hf"), mapping) == "/c/hf"
    assert map_path(Path("/database"), mapping) == "/database"
