"""What a user or a checkpoint brings is data: nothing of it is run, neither when generating nor when serving."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from generator.check import check, configs
from generator.cli import main
from generator.findings import Refused, has_errors
from generator.generate import decide, files, generate
from generator.options import Options
from tests.checkpoints import cached

ROOT = Path(__file__).parents[2]
SERVING = sorted((ROOT / "templates").rglob("*.py"))
PROGRAM = sorted((ROOT / "generator").rglob("*.py"))

# module, or module.function -> why nobody may call it
FORBIDDEN = {
    "pickle": "runs code of the file",
    "cPickle": "runs code of the file",
    "_pickle": "runs code of the file",
    "dill": "runs code of the file",
    "cloudpickle": "runs code of the file",
    "joblib": "runs code of the file",
    "shelve": "runs code of the file",
    "marshal": "crashes on hostile files",
    "eval": "runs text",
    "exec": "runs text",
    "compile": "runs text",
    "os.system": "runs text",
    "os.popen": "runs text",
    "yaml.load": "runs code of the file",
    "yaml.unsafe_load": "runs code of the file",
    "yaml.full_load": "runs code of the file",
}
ONLY_GENERATING = {"subprocess"}  # serving code starts no programs
FETCHERS = {"socket", "ssl", "http", "urllib", "requests", "httpx", "aiohttp", "ftplib", "urllib3"}
MAY_FETCH = {"fetch.py", "dial.py"}  # the one place of a repository that opens connections


def called(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def faults(source: str, *, serving: bool, name: str = "x.py") -> list[str]:
    """What a file does that no file of the project may."""
    tree = ast.parse(source)
    modules = set(imported(tree))
    found = [f"imports {module}: {FORBIDDEN[module]}" for module in modules & FORBIDDEN.keys()]
    if serving:
        found += [f"imports {module}: serving code starts no programs" for module in modules & ONLY_GENERATING]
        if name not in MAY_FETCH:
            found += [f"imports {module}: only {MAY_FETCH} opens connections" for module in modules & FETCHERS]
    for function, call in called(tree):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if function in FORBIDDEN:
            found.append(f"calls {function}: {FORBIDDEN[function]}")
        if function.endswith("torch.load") and keywords.get("weights_only") != "True":
            found.append("calls torch.load without weights_only=True")
        if keywords.get("trust_remote_code", "False") != "False":
            found.append(f"calls {function} with trust_remote_code")
        if keywords.get("allow_pickle", "False") != "False":
            found.append(f"calls {function} with allow_pickle")
        if keywords.get("shell", "False") != "False":
            found.append(f"calls {function} with shell")
    return found


@pytest.mark.parametrize("path", SERVING, ids=lambda path: str(path.relative_to(ROOT)))
def test_serving_code_runs_no_data(path: Path) -> None:
    assert not faults(path.read_text("utf-8"), serving=True, name=path.name)


def test_the_program_runs_no_data() -> None:
    found = {str(path.relative_to(ROOT)): faults(path.read_text("utf-8"), serving=False) for path in PROGRAM}
    assert not {path: what for path, what in found.items() if what}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import loads",
        "import urllib.request",
        "import subprocess",
        "eval('1')",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "AutoModel.from_pretrained(folder, trust_remote_code=True)",
        "np.load(file, allow_pickle=flag)",
        "run(command, shell=True)",
        "yaml.load(text)",
        "os.system(command)",
    ],
)
def test_each_fault_is_seen(source: str) -> None:
    assert faults(source, serving=True)


class Marks:
    """A pickle of it makes a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def trapped(source: Path, folder: Path, mark: Path) -> Path:
    """A copy of a checkpoint in which everything that could be run makes the folder `mark`."""
    shutil.copytree(source, folder)
    code = f"import os\nos.mkdir({str(mark)!r})\nclass Trap: pass\n"
    for name in ("tokenization_trap.py", "configuration_trap.py", "modeling_trap.py", "conftest.py", "__init__.py"):
        (folder / name).write_text(code)
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(Marks(mark)))
    for name, entries in (
        ("config.json", {"AutoConfig": "configuration_trap.Trap", "AutoModel": "modeling_trap.Trap"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["tokenization_trap.Trap", "tokenization_trap.Trap"]}),
    ):
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**config, "auto_map": entries}))
    return folder


@pytest.mark.parametrize("how", ["hf", "checkpoint"])
def test_code_in_a_checkpoint_is_not_run(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = trapped(cached("llava"), tmp_path / "checkpoint", tmp_path / "ran")
    outcome = generate(
        Options(model="llava", hf_model_dir=folder, runtime="torch", tokenizer=how, working_dir=tmp_path)  # type: ignore[arg-type]
    )
    assert outcome.written and not outcome.failed
    assert not (tmp_path / "ran").exists()
    assert not list(outcome.output.rglob("*trap*"))


def test_a_tokenizer_that_is_code_is_refused_with_its_own_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    trap = {"tokenizer_class": "Trap", "auto_map": {"AutoTokenizer": ["tokenization_trap.Trap", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(trap))
    (folder / "tokenization_trap.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\nclass Trap: pass\n")
    asked = ["--model", "llava", "--hf-model-dir", str(cached("llava")), "--tokenizer-dir", str(folder)]
    code = main([*asked, "--output", str(tmp_path / "repo")])
    message = capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert (code, "remote-code" in message) == (4, True), message
    assert not (tmp_path / "repo").exists()


def test_a_pickle_in_an_archive_is_not_run(tmp_path: Path) -> None:
    with tarfile.open(cached("neva") / "neva.nemo") as source:
        members = {entry.name: source.extractfile(entry).read() for entry in source if entry.isfile()}  # type: ignore[union-attr]
    with tarfile.open(tmp_path / "neva.nemo", "w") as target:
        for name, content in members.items():
            body = pickle.dumps(Marks(tmp_path / "ran")) if name.endswith(".ckpt") else content
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            target.addfile(entry, io.BytesIO(body))
    with pytest.raises(Refused, match="weights cannot be read"):
        generate(Options(model="neva", hf_model_dir=tmp_path / "neva.nemo", working_dir=tmp_path))
    assert not (tmp_path / "ran").exists()


SIGNS = """it's "q" {{ 7*7 }} {% include "/etc/passwd" %} {# #} $(touch ran) `touch ran` ${HOME} \\ ; touch ran # é 日本 } ] > | &"""
LINES = SIGNS + '\n touch ran \n}\nparameters { key: "x" }'


def leaves(value: Any) -> Iterator[Any]:
    """The values in nested lists and objects."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from leaves(part)
    else:
        yield value


@pytest.mark.parametrize("runtime", ["trtllm", "torch"])
@pytest.mark.parametrize("value", [SIGNS, LINES], ids=["signs", "lines"])
def test_every_value_of_a_user_is_inert(value: str, runtime: str, tmp_path: Path) -> None:
    options = Options(
        model="llava",
        runtime=runtime,  # type: ignore[arg-type]
        hf_model_dir=None,
        path_map=(("tmp", "/" + value),),
        image_hosts=(value,),
        container=value if runtime == "trtllm" else None,
        deploy="kubernetes" if runtime == "trtllm" else None,
        gpu_memory=80 << 30 if runtime == "trtllm" else None,
        streaming=True,
        working_dir=Path("/nonexistent"),
    )
    plan, _, findings = decide(options)
    assert not has_errors(findings), findings
    made = files(plan, options)
    for name, content in made.items():
        path = tmp_path / "repo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if name.endswith("config.pbtxt"):
            configs.parse(content.decode())
        if name.endswith(".json"):
            json.loads(content)
        if name.endswith(".yaml"):
            assert value in list(leaves(list(yaml.safe_load_all(content))))
    assert json.loads(made["preprocessing/1/settings.json"])["image_hosts"] == [value]
    if runtime == "trtllm":
        assert json.loads(made["manifest.json"])["options"]["container"] == value
        config = configs.parse(made["tensorrt_llm/config.pbtxt"].decode())
        assert value in config.parameters["gpt_model_path"].string_value
        # the script itself, asked for a step that only prints what is missing
        asked = ["bash", tmp_path / "repo" / "build_engines.sh", "generate"]
        done = subprocess.run(
            asked, cwd=tmp_path, capture_output=True, text=True, env={"PATH": os.environ["PATH"], "HOME": "/h"}
        )
        assert "syntax error" not in done.stderr, done.stderr
    shell = [path for path in made if path.endswith(".sh")]
    for name in shell:
        subprocess.run(["bash", "-n", tmp_path / "repo" / name], check=True)
    assert not list(tmp_path.rglob("ran"))
    assert not has_errors(check(tmp_path / "repo"))


@pytest.mark.parametrize("name", ["../evil", "a/b", "a b", "", "a;b", "$(x)", "a\nb", "{{ x }}", "ünï"])
def test_names_of_models_are_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--model", "llava", "--name", name])
    assert ended.value.code == 2


def test_folders_with_hostile_names(tmp_path: Path) -> None:
    folder = tmp_path / SIGNS.replace("/", "_")
    shutil.copytree(cached("llava"), folder)
    outcome = generate(
        Options(model="llava", runtime="torch", hf_model_dir=folder, output=tmp_path / "a" / SIGNS.replace("/", "_"))
    )
    assert outcome.written and not has_errors(check(outcome.output))
    settings = json.loads((outcome.output / "tensorrt_llm/1/settings.json").read_text())
    assert settings["checkpoint"] == str(folder)
    assert not list(tmp_path.rglob("ran")) and not (ROOT / "ran").exists()
