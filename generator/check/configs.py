"""config.pbtxt files through Triton's own protobuf schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from generator.findings import EXIT_ENVIRONMENT, Finding, Refused, error

# protobuf builds the message class at run time, so there is no static type for it.
ModelConfig = Any


def there(path: Path, *, file: bool = False) -> bool:
    """Whether a path that somebody may have edited leads to something, or to a file; what can be no path does not."""
    try:
        return path.is_file() if file else path.exists()
    except OSError:  # a name that is too long
        return False


def schema() -> Any:
    """The module with Triton's ModelConfig message.

    Raises:
        Refused: tritonclient or protobuf is not installed.
    """
    try:
        from tritonclient.grpc import model_config_pb2
    except ImportError:
        found = error(
            "tritonclient-missing",
            "tritonclient is not installed, and it brings Triton's schema of config.pbtxt",
            "gen-repo check",
            "pip install 'gen-repo[client]'",
        )
        raise Refused(found, exit_code=EXIT_ENVIRONMENT) from None
    return model_config_pb2


def parse(text: str) -> ModelConfig:
    """A ModelConfig from protobuf text.

    Raises:
        google.protobuf.text_format.ParseError: with line and column.
    """
    from google.protobuf import text_format

    return text_format.Parse(text, schema().ModelConfig())


def read_all(repository: Path) -> tuple[dict[str, ModelConfig], list[Finding]]:
    """Every model's config by folder name, and findings for those that are missing or do not parse."""
    from google.protobuf import text_format

    schema()
    configs: dict[str, ModelConfig] = {}
    findings: list[Finding] = []
    again = "generate the repository again"
    for folder in sorted(p for p in repository.iterdir() if p.is_dir() and not p.name.startswith(".")):
        path = folder / "config.pbtxt"
        if not path.is_file():
            if any(child.is_dir() and child.name.isdigit() for child in folder.iterdir()):
                findings.append(error("no-config", "the model has no config.pbtxt", folder, again))
            continue
        try:
            config = parse(path.read_text("utf-8"))
        except (text_format.ParseError, UnicodeDecodeError) as problem:
            findings.append(error("config-unparsable", f"Triton cannot parse it: {problem}", path, again))
            continue
        if config.name != folder.name:
            what = f"the config names the model {config.name!r}, its folder is {folder.name!r}"
            findings.append(error("model-name", what, path, again))
        if not any(child.is_dir() and child.name.isdigit() for child in folder.iterdir()):
            findings.append(error("no-version", "the model has no version folder", folder, again))
        configs[folder.name] = config
    return configs, findings
