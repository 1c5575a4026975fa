"""Paths of generation: files of a checkpoint or an engine folder, which lead to a repository or to findings."""

from __future__ import annotations

import json
import random
import struct
import tarfile
from collections.abc import Callable
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from generator import manifest
from generator.check import agreement, check, configs
from generator.facts import nemo
from generator.facts.tokenizer import read as read_tokenizer
from generator.findings import Refused, has_errors
from generator.generate import decide, files, generate
from generator.models import find
from generator.options import Options
from tests import engines
from tests.checkpoints import cached
from tests.fuzz.mutate import spoiled, twisted
from tests.fuzz.scratch import scratch
from tests.unit import serving

MODELS = {"llava": "llava", "llava-next": "llava-next", "blip2-opt": "blip2-opt", "kosmos-2": "kosmos-2"}
MODELS |= {"fuyu": "fuyu", "phi-3-vision": "phi-3-vision-4", "deplot": "deplot", "nougat": "nougat"}
RENDERED = 0.01  # the share of inputs whose files are made as well, which takes a hundred times as long
WHOLE = 20
CONFIGS = ("config.json", "preprocessor_config.json", "processor_config.json")


def judged(act: Callable[[], Any]) -> str:
    """Whether there were findings that name a remedy, or none. Anything else that is raised is a crash."""
    try:
        act()
    except Refused as refused:
        assert refused.findings and all(finding.what and finding.remedy for finding in refused.findings)
        return "refused"
    return "answered"


def content(rng: random.Random, sound: Any) -> bytes:
    """A JSON file: mostly well-formed with odd values, else spoiled bytes."""
    if rng.random() < 0.8:
        return json.dumps(twisted(rng, sound)).encode()
    return spoiled(rng, [json.dumps(sound).encode()])


def wanted(options: Options, *, rendered: bool) -> None:
    """The decision, and, if asked and nothing forbids it, all files in memory."""
    plan, _, findings = decide(options)
    if has_errors(findings):
        raise Refused(*findings)
    if rendered:
        files(plan, options)


@cache
def checkpoint_of(model: str) -> tuple[Path, dict[str, Any]]:
    source = cached(MODELS[model])
    if not (source / "config.json").is_file():
        source = next(path.parent for path in source.rglob("config.json"))
    folder = scratch() / model
    folder.mkdir()
    found = {name: json.loads((source / name).read_text()) for name in CONFIGS if (source / name).is_file()}
    for name, value in found.items():
        (folder / name).write_text(json.dumps(value))
    return folder, found


def checkpoint(rng: random.Random) -> str:
    """A config of a checkpoint, up to its facts and everything that is decided from them."""
    from generator import planning
    from generator.facts import checkpoint as reading
    from generator.facts.gather import Facts, places

    model = rng.choice(list(MODELS))
    folder, found = checkpoint_of(model)
    name = rng.choice(list(found))
    options = Options(model=model, hf_model_dir=folder, working_dir=scratch())
    spec, variant = find(model)

    def act() -> None:
        facts = reading.read(folder, spec, variant)
        where = places(options, spec, variant, spec.default_release)
        _, findings = planning.make(options, spec, variant, Facts(where, facts, None, None, None))
        assert all(finding.what and finding.remedy for finding in findings)

    (folder / name).write_bytes(content(rng, found[name]))
    try:
        return judged(act)
    finally:
        (folder / name).write_text(json.dumps(found[name]))


@cache
def engine_folders() -> tuple[Path, Path, dict[str, Any], dict[str, Any]]:
    vision, llm = engines.vision(scratch() / "vision"), engines.llm(scratch() / "llm")
    return vision, llm, *(json.loads((folder / "config.json").read_text()) for folder in (vision, llm))


def engine(rng: random.Random) -> str:
    """The config.json of one of the engines, up to the repository's files."""
    vision, llm, *sound = engine_folders()
    number = rng.randrange(2)
    path, rendered = (vision, llm)[number] / "config.json", rng.random() < RENDERED
    options = Options(model="llava", visual_engine_dir=vision, llm_engine_dir=llm, working_dir=scratch())
    path.write_bytes(content(rng, sound[number]))
    try:
        return judged(lambda: wanted(options, rendered=rendered))
    finally:
        path.write_text(json.dumps(sound[number]))


@cache
def tokenizer_files() -> tuple[Path, dict[str, Any]]:
    folder = scratch() / "tokenizer"
    folder.mkdir()
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>", "pad_token": "<pad>"}
    return folder, {"tokenizer.json": json.loads(serving.tokenizer_json()), "tokenizer_config.json": config}


def tokenizer(rng: random.Random) -> str:
    """A tokenizer.json or tokenizer_config.json that is taken as it is, and what the generator asks of it."""
    folder, sound = tokenizer_files()
    chosen = rng.choice(list(sound))
    for name, value in sound.items():
        (folder / name).write_bytes(content(rng, value) if name == chosen else json.dumps(value).encode())

    def act() -> None:
        facts, _ = read_tokenizer(folder, "checkpoint", "<image>")
        facts.find("<image>")
        facts.encode("a street with a dog")

    return judged(act)


@cache
def safetensors_seed() -> bytes:
    header = {name: {"dtype": "F16", "shape": [4], "data_offsets": [8 * n, 8 * n + 8]} for n, name in enumerate("ab")}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(16)


def safetensors(rng: random.Random) -> str:
    """The constant rows beside a vision engine, as the step that loads them reads them."""
    import constants_file

    path = scratch() / "rows.safetensors"
    path.write_bytes(spoiled(rng, [safetensors_seed()]))
    try:
        rows = constants_file.load({"file": str(path), "names": ["a", "b"]})
    except ValueError as refusal:
        assert "run build_engines.sh again" in str(refusal)
        return "refused"
    assert rows.ndim == 2
    return "answered"


@cache
def archive() -> list[tuple[str, bytes]]:
    """Of a tiny NeVA, with the few weights that show every kind of entry: damage then seldom meets mere numbers."""
    with tarfile.open(cached("neva") / "neva.nemo") as source:
        members = [(entry.name, source.extractfile(entry)) for entry in source if entry.isfile()]
        bodies = {name: stream.read() for name, stream in members if stream is not None}
    [weights] = [name for name in bodies if name.endswith(nemo.WEIGHTS[0])]
    made = BytesIO()
    torch.save({nemo.EMBEDDING: torch.zeros(64, 2), "bias": torch.zeros(2), "_extra_state": BytesIO(b"\0")}, made)
    return list((bodies | {weights: made.getvalue()}).items())


def packed(members: list[tuple[str, bytes]]) -> bytes:
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as target:
        for name, body in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            target.addfile(entry, BytesIO(body))
    return made.getvalue()


def nemo_archive(rng: random.Random) -> str:
    """A .nemo archive: one of its members spoiled, or the tar around them."""
    members = archive()
    if rng.random() < 0.75:
        chosen = rng.randrange(len(members))
        members = [
            (name, spoiled(rng, [body]) if number == chosen else body) for number, (name, body) in enumerate(members)
        ]
        made = packed(members)
    else:
        made = spoiled(rng, [packed(members)])
    path = scratch() / "neva.nemo"
    path.write_bytes(made)
    spec, variant = find("neva")

    def act() -> None:
        nemo.read(path, spec, variant)
        nemo.tokenizer(path, spec)

    return judged(act)


@cache
def repository() -> tuple[Path, dict[Path, bytes], str]:
    """The folder, its files that are read, and the release. Of configs, those parsed last are known by their text."""
    folder = scratch() / "repository"
    made = generate(Options(model="llava", streaming=True, output=folder, working_dir=scratch()))
    configs.parse = lru_cache(maxsize=64)(configs.parse)
    paths = sorted(path for path in made.output.rglob("*") if path.suffix in (".json", ".pbtxt", ".py"))
    release = json.loads((folder / manifest.NAME).read_text())["release"]
    return folder, {path: path.read_bytes() for path in paths}, release


def checked(rng: random.Random) -> str:
    """A file of a generated repository, edited by somebody, and what `gen-repo check` says.

    One in WHOLE goes through the whole command, as does every manifest.json; of the others the manifest is not compared.
    """
    folder, files_of, release = repository()
    some = [path for path in files_of if path.suffix != ".py"]
    path = rng.choice(some if rng.random() < 0.8 else list(files_of))
    sound = files_of[path]
    path.write_bytes(content(rng, json.loads(sound)) if path.suffix == ".json" else spoiled(rng, [sound]))
    whole = path.name == manifest.NAME or rng.randrange(WHOLE) == 0

    def act() -> None:
        findings = check(folder) if whole else agreement(folder, release)
        assert all(finding.what and finding.remedy for finding in findings)
        if has_errors(findings):
            raise Refused(*findings)

    try:
        return judged(act)
    finally:
        path.write_bytes(sound)
