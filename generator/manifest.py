"""manifest.json: what made a repository and what each file's content was. No dates: same inputs, same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from generator import __version__
from generator import memory as memory_plan
from generator.facts import jsonfile
from generator.findings import EXIT_USAGE, Refused, error
from generator.options import Options
from generator.plan import Plan

NAME = "manifest.json"
OR_SERVER = "give the folder that gen-repo wrote, or host:port of a server"
SCHEMA = 1
MADE_BY = "gen-repo"


KEPT = ("hostfile",)  # what users put into a repository, and a new one has as well: where launch.sh looks for the nodes


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make(plan: Plan, options: Options, files: dict[str, bytes], links: Mapping[str, str]) -> bytes:
    """The manifest of `files` (relative path -> content) and of symbolic `links` (relative path -> target)."""
    numbers = {
        "limits": asdict(plan.limits),
        "vocab_size": plan.vocab_size,
        "hidden_size": plan.hidden_size,
        "rows_per_image": plan.rows_per_image,
        "llm_dtype": plan.llm_dtype,
        "vision_dtype": plan.vision_dtype,
        "pixels": asdict(plan.pixels),
        "pixel_form": plan.pixel_form,
        "tokens": asdict(plan.tokens),
        "tokenizer": plan.tokenizer.digest() if plan.tokenizer else None,
        "font": plan.font.digest() if plan.font else None,
        "paths": asdict(plan.paths),
    }
    content = {
        "made_by": MADE_BY,
        "schema": SCHEMA,
        "version": __version__,
        "model": plan.spec.name,
        "variant": plan.variant.name,
        "release": plan.release,
        "runtime": plan.runtime,
        "quantization": plan.quantization,
        "servable": not plan.missing,
        "models": {role: plan.names[role] for role in plan.roles},
        "options": options.as_manifest(),
        "machine": machine(plan),
        "facts": digest(json.dumps(numbers, sort_keys=True).encode()),
        "files": {path: digest(data) for path, data in sorted(files.items())},
    }
    if links:
        content["links"] = dict(links)
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def machine(plan: Plan) -> dict[str, Any]:
    """What `gen-repo doctor` compares a machine with; sizes in bytes."""
    launch, memory = plan.launch, memory_plan.make(plan)
    fraction = plan.llm_parameters.get("kv_cache_free_gpu_mem_fraction")
    return {
        "backend": "python" if plan.python_llm else "tensorrtllm",
        "mode": launch.mode,
        "world_size": launch.world_size,
        "nodes": launch.nodes,
        "ranks_per_node": launch.ranks_per_node,
        "llm_gpus": list(launch.llm_gpus),
        "gpus": launch.gpus if plan.runtime == "trtllm" else 0,
        "vision_gpus": list(launch.vision_gpus),
        "llm_bytes": memory.llm_bytes,
        "vision_bytes": memory.vision_bytes,
        "cuda_pool": memory.cuda_pool,
        "kv_least_bytes": memory.kv_least_bytes,
        "kv_fraction": float(fraction) if fraction and plan.route.paged_kv_cache else None,
        "shm_bytes": memory.shm_bytes,
        "host_bytes": memory.host_bytes,
        "python_threads": plan.front_pool if plan.streaming else None,
        "vision_engine": plan.vision_file,
        "llm_engine": plan.paths.llm_engine if plan.runtime == "trtllm" else None,
    }


def read(repository: Path) -> dict[str, Any] | None:
    """The manifest of a repository of ours; None when the folder has none that is ours.

    Raises:
        Refused: there is one, but it is not readable JSON.
    """
    path = repository / NAME
    if not path.is_file():
        return None
    content = jsonfile.read(path, "manifest.json", "generate the repository again into a new folder")
    return content if content.get("made_by") == MADE_BY else None


def of(repository: Path, remedy: str = "give the folder that gen-repo wrote") -> dict[str, Any]:
    """The manifest of a folder that has to be a repository of ours.

    Raises:
        Refused: there is no such folder, it has no manifest of ours, or one that is not readable JSON.
    """
    if not repository.is_dir():
        missing = error("no-such-directory", "there is no such folder", repository, remedy)
        raise Refused(missing, exit_code=EXIT_USAGE)
    content = read(repository)
    if content is None:
        foreign = error("not-ours", f"the folder has no {NAME} of gen-repo", repository, remedy)
        raise Refused(foreign, exit_code=EXIT_USAGE)
    return content


def edited(repository: Path, manifest: dict[str, Any]) -> dict[str, str]:
    """Files that differ from the manifest: path -> "changed", "missing" or "added"."""
    found: dict[str, str] = {}
    known: dict[str, str] = manifest.get("files", {})
    links: dict[str, str] = manifest.get("links", {})
    for path, target in links.items():
        link = repository / path
        if not link.is_symlink():
            found[path] = "changed" if link.exists() else "missing"
        elif str(link.readlink()) != target:
            found[path] = "changed"
    for path, expected in known.items():
        file = repository / path
        if not file.is_file():
            found[path] = "missing"
        elif digest(file.read_bytes()) != expected:
            found[path] = "changed"
    for file in sorted(p for p in repository.rglob("*") if p.is_file() or p.is_symlink()):
        path = file.relative_to(repository).as_posix()
        if path not in known and path not in links and path not in (NAME, *KEPT) and "__pycache__" not in file.parts:
            found[path] = "added"
    return found
