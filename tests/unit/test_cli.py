"""The command line: exit codes, what it prints, and how little it imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from generator import server
from generator.cli import main
from tests.checkpoints import cached

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "generator", *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from generator import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'torch', 'transformers', 'numpy', 'jinja2', 'google', 'tritonclient', 'tokenizers', 'PIL'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.rstrip().endswith("[]")


def test_generation_without_checkpoint_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from generator import cli\n"
        f"assert cli.main(['--model', 'llava', '--output', {str(tmp_path / 'r')!r}]) == 0\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'torch', 'transformers', 'numpy', 'google', 'tritonclient', 'tokenizers', 'PIL'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.rstrip().endswith("[]")


def test_default_output_is_model_repos_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--model", "llava"]) == 0
    assert (tmp_path / "model_repos/llava/ensemble/config.pbtxt").is_file()
    assert capsys.readouterr().out.rstrip().endswith("model_repos/llava: written")
    assert main(["--model", "llava"]) == 0
    assert "already up to date" in capsys.readouterr().out
    assert main(["--model", "llava", "--max-tokens", "7"]) == 1
    assert "--force" in capsys.readouterr().err
    assert main(["--model", "llava", "--max-tokens", "7", "--force"]) == 0


def test_explain_prints_the_plan_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "vila", "--explain", "--output", str(tmp_path / "r")]) == 0
    text = capsys.readouterr().out
    assert "4 x 1 x 196 = 784" in text and "8 x 784 = 6272" in text and "first image id 32000" in text
    assert not (tmp_path / "r").exists()


def test_list_names_every_variant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert "vila1.5-40b" in text and "not supported: its tower looks at the image at two scales" in text
    assert main(["list", "--json"]) == 0
    assert {row["model"] for row in json.loads(capsys.readouterr().out)} >= {"llava", "vila"}


def test_check_says_fine_or_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--model", "llava", "--output", str(tmp_path / "r")])
    assert main(["check", str(tmp_path / "r")]) == 0
    assert "fine" in capsys.readouterr().out
    (tmp_path / "r/ensemble/config.pbtxt").write_text("nonsense {")
    assert main(["check", str(tmp_path / "r"), "--json"]) == 1
    codes = {finding["code"] for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert "config-unparsable" in codes


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--model", "llava", "--max-images", "0"],
        ["--model", "llava", "--path-map", "nothing"],
        ["--model", "llava", "--name", "llava_tensorrt_llm"],
        ["--model", "llava", "--name", "preprocessing"],
        ["--model", "llava", "--set", "x=1"],
        ["--model", "llava", "--name", "a/b"],
        ["--model", "llava", "--image-host", "user@host/path"],
        ["--model", "nothing-like-it"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_asking_nobody_is_an_environment_error(tmp_path: Path) -> None:
    done = run("ask", "--url", "127.0.0.1:9", "--text", "hello?", cwd=tmp_path)
    assert done.returncode == 3 and "127.0.0.1:9" in done.stderr and "Traceback" not in done.stderr


def test_serving_a_folder_that_is_not_there(tmp_path: Path) -> None:
    done = run("serve", str(tmp_path / "nothing"), cwd=tmp_path)
    assert done.returncode == 2 and "there is no such folder" in done.stderr and "nothing" in done.stderr


def test_serving_a_folder_without_models_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("not a repository")
    done = run("serve", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 2 and "holds no model repository" in done.stderr


@pytest.mark.parametrize("command", ["check", "doctor", "verify", "bench", "openai"])
def test_commands_agree_about_what_is_no_repository(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, code in ((tmp_path, "not-ours"), (tmp_path / "nothing", "no-such-directory")):
        assert main([command, str(folder)]) == 2
        assert f"error[{code}]" in capsys.readouterr().err


def test_an_empty_file_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    done = run("ask", "--image", "empty.jpg", "--text", "what is it?", cwd=tmp_path)
    assert done.returncode == 3 and "empty.jpg is empty" in done.stderr


def test_whoever_reads_the_output_may_leave(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "generator", "list", "--json"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, b"")


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_an_output_that_is_no_folder_is_named_before_any_work(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    given = ["--model", "llava", "--hf-model-dir", str(cached("llava")), "--output", str(tmp_path / where)]
    assert main(["build-vision", "--onnx-only", *given]) == 1
    said = capsys.readouterr().err
    assert "cannot be the engine's folder" in said and "exporting" not in said


@pytest.mark.parametrize(
    ("address", "ports", "message", "remedy"),
    [
        ("127.0.0.1", (0, 18000, 18000), "ports [18000, 18000] are not different", "a port of its own"),
        ("192.0.2.1", (0, 0, 0), "of 192.0.2.1", "an address of this machine"),
    ],
)
def test_addresses_that_cannot_be_listened_on(address: str, ports: tuple[int, ...], message: str, remedy: str) -> None:
    with pytest.raises(server.ServerError) as refused:
        server.free_ports(ports, address)
    assert message in refused.value.message and remedy in refused.value.remedy


@pytest.mark.parametrize("command", ["serve --http-port", "serve --grpc-port", "serve --metrics-port", "openai --port"])
@pytest.mark.parametrize("value", ["-1", "65536", "9999999", "http"])
def test_ports_that_are_none_are_usage_errors(command: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, option = command.split()
    with pytest.raises(SystemExit) as ended:
        main([name, "repository", f"{option}={value}"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"argument {option}: " in said and value in said and ("0 to 65535" in said or value == "http")


@pytest.mark.parametrize("value", ["0", "65535"])
def test_ports_are_taken_as_they_are(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path / "none"), f"--http-port={value}"]) == 2
    assert "none" in capsys.readouterr().err
