"""Plan -> the files of the repository, in memory. Templates are strict: an undefined name is an error.

The template tree is the output tree. `*.jinja` files are rendered and lose the suffix, everything else is copied as
it is. The two steps that differ between the runtimes lie below `trtllm/` and `torch/`. A Python step gets its model.py
and the modules that it imports, from its own folder or from `shared/`.
"""

from __future__ import annotations

import ast
import functools
import json
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jinja2

from generator import deploy, interface, memory, settings
from generator.build import build_plan
from generator.plan import FRONT, LLM_RESPONSES, Plan

Files = dict[str, bytes]
SettingsOf = Callable[[Plan], dict[str, Any]]

RUNTIME_ROLES = ("vision_encoder", "tensorrt_llm")
SETTINGS: dict[str, SettingsOf] = {
    "preprocessing": settings.preprocessing,
    "postprocessing": settings.postprocessing,
    FRONT: settings.front,
    "torch/vision_encoder": settings.torch_vision_encoder,
    "torch/tensorrt_llm": settings.torch_tensorrt_llm,
    "trtllm/vision_encoder": settings.trtllm_vision_encoder,
    "trtllm/python_enc_dec": settings.trtllm_own_step,
    "trtllm/python_executor": settings.trtllm_executor,
}
NEED_TOKENIZER = ("preprocessing", "postprocessing", FRONT)
TOP_LEVEL = ("README.md.jinja", "launch.sh.jinja", "build_engines.sh.jinja", "kubernetes.yaml.jinja")


def templates_root() -> Path:
    """The templates: packed into the installed package, or beside it in a checkout."""
    packed = Path(__file__).with_name("_templates")
    return packed if packed.is_dir() else Path(__file__).parent.parent / "templates"


def pbtxt(value: object) -> str:
    """A quoted string of protobuf's text format; whatever goes in comes back from the parser."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    out = []
    for character in str(value):
        if character in escapes:
            out.append(escapes[character])
        elif ord(character) < 32 or ord(character) == 127:
            out.append(f"\\{ord(character):03o}")
        else:
            out.append(character)
    return '"' + "".join(out) + '"'


def comment(value: object) -> str:
    """Text that stays on its comment line."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


@functools.cache
def environment(root: Path) -> jinja2.Environment:
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(root),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - the output is no HTML; strings are quoted by the filters below
    )
    env.filters.update(pbtxt=pbtxt, comment=comment, human=memory.human, sh=lambda value: shlex.quote(str(value)))
    return env


def imported_modules(start: Iterable[Path], folders: tuple[Path, ...]) -> list[Path]:
    """`start` and every module below `folders` that they import, directly or through each other."""
    found: dict[str, Path] = {}
    queue = list(start)
    while queue:
        path = queue.pop()
        if path.name in found:
            continue
        found[path.name] = path
        names = _imported_names(path.read_text("utf-8"))
        candidates = [folder / f"{name}.py" for name in names for folder in folders]
        queue.extend(path for path in candidates if path.is_file())
    return [found[name] for name in sorted(found)]


@functools.cache  # most modules go into several steps, and parsing them took two thirds of a generation
def _imported_names(source: str) -> tuple[str, ...]:
    """Modules that `source` imports by their bare names, wherever in it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.append(node.module)
    return tuple(names)


def chosen_modules(values: dict[str, Any]) -> list[str]:
    """Modules that a step loads by a name in its settings: every entry called `module`."""
    names = [values["module"]] if "module" in values else []
    return names + [entry["module"] for entry in values.values() if isinstance(entry, dict) and "module" in entry]


def step(plan: Plan, role: str) -> Files:
    """Everything below the folder of one model of the repository, by path relative to it."""
    root = templates_root()
    env = environment(root)
    source = f"{plan.runtime}/{role}" if role in RUNTIME_ROLES else role
    if source == "trtllm/tensorrt_llm":
        source = f"trtllm/{plan.route.step}"
    if source == "trtllm/vision_encoder" and plan.tensorrt_vision:
        source = "trtllm/tensorrt_vision"
    wiring = interface.llm_responses_steps if role == LLM_RESPONSES else interface.ensemble_steps
    context = {"plan": plan, "model": interface.models(plan)[role], "steps": wiring(plan)}
    files: Files = {"config.pbtxt": env.get_template(f"{source}/config.pbtxt.jinja").render(context).encode()}
    code = root / source / "1"
    if (code / "model.py").is_file():
        values = SETTINGS[source](plan)
        folders = (code, root / "shared")
        candidates = (folder / f"{name}.py" for name in chosen_modules(values) for folder in folders)
        chosen = [code / "model.py", *(path for path in candidates if path.is_file())]
        for module in imported_modules(chosen, folders):
            files[f"1/{module.name}"] = module.read_bytes()
        files["1/settings.json"] = _json(values)
    else:
        files["1/.gitkeep"] = b""  # Triton wants a version folder; this model has no files in it
    if role in NEED_TOKENIZER and plan.tokenizer:
        files[f"1/{plan.spec.tokenizer.file}"] = plan.tokenizer.content
    if role == "preprocessing" and plan.font:
        files[f"1/{settings.FONT_FILE}"] = plan.font.content
    return files


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def top_level(plan: Plan, template: str) -> bytes:
    """One of the files beside the models: a script, or the README."""
    context = {
        "plan": plan,
        "memory": memory.make(plan),
        "model": interface.ensemble(plan),
        "build": build_plan(plan),
        "deploy": plan.deploy,
        "resources": deploy.resources(plan),
        "mount": deploy.MOUNT,
    }
    return environment(templates_root()).get_template(template).render(context).encode()


def links(plan: Plan) -> dict[str, str]:
    """Symbolic links of the repository, by relative path: where they lead, as the server sees it."""
    vision = plan.tensorrt_vision
    return {plan.vision_file: vision.engine} if vision and vision.engine and plan.vision_file else {}


def render(plan: Plan) -> Files:
    """All files of the repository but its manifest, by relative path.

    Raises:
        jinja2.UndefinedError: a template names something that the plan does not have (a bug of ours).
    """
    files: Files = {}
    for role in plan.roles:
        for relative, content in step(plan, role).items():
            files[f"{plan.names[role]}/{relative}"] = content
    files["chat.json"] = _json(settings.chat(plan))
    for name in TOP_LEVEL:
        if (name.startswith("build_engines") and plan.runtime != "trtllm") or (
            name.startswith("kubernetes") and plan.deploy is None
        ):
            continue
        files[name.removesuffix(".jinja")] = top_level(plan, name)
    return dict(sorted(files.items()))
