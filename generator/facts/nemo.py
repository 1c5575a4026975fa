"""Facts of a NeMo archive: a tar of model_config.yaml, weights and tokenizer, the vision tower in a folder beside.

Nothing is extracted, and no pickle is loaded other than as plain tensors, whose data is not read.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from generator.facts import checkpoint, jsonfile, sentencepiece_model
from generator.facts.checkpoint import CheckpointFacts
from generator.facts.sentencepiece_model import SentencePieceFacts
from generator.findings import EXIT_ENVIRONMENT, Refused, error
from generator.sizes import llm_size
from generator.spec import ModelSpec, Variant

CONFIG = "model_config.yaml"
WEIGHTS = ("model_weights.ckpt", "mp_rank_00/model_weights.ckpt")
EMBEDDING = "model.embedding.word_embeddings.weight"
AGAIN = "save the model as a .nemo file again"
GIVE = "point --hf-model-dir at the .nemo file, or at the folder that holds it"
CLASS_TOKENS = {"clip": 1, "clip_vision_model": 1}  # tokens of a tower that stand for no patch


def find(path: Path, name: str) -> Path:
    """The archive that `path` means: itself, or in a folder the one called `name`, or else the only one.

    Raises:
        Refused: there is none, or it is not clear which.
    """
    if path.is_file():
        return path
    if (path / name).is_file():
        return path / name
    found = sorted(path.glob("*.nemo"))
    if len(found) != 1:
        what = f"{len(found)} .nemo files, and none is called {name}" if found else "no .nemo file"
        raise Refused(error("checkpoint-missing", what, path, GIVE))
    return found[0]


def read(path: Path, spec: ModelSpec, variant: Variant, projector: Path | None = None) -> CheckpointFacts:
    """Reads an archive with a language model and a vision side.

    Args:
        projector: the archive with the vision side, where that is another one; None = not on disk, where it is.

    Raises:
        Refused: it cannot be read, is another kind of model, or was trained in a way that is not served; a tool that
            is needed to read it is missing.
    """
    archive = find(path, spec.checkpoint.archive)
    with jsonfile.reading(archive, CONFIG):
        return _read(archive, spec, variant, projector)


def _read(archive: Path, spec: ModelSpec, variant: Variant, projector: Path | None) -> CheckpointFacts:
    config = _config(archive)
    side, layout = archive, {}
    encoder: dict[str, Any] = {}
    if projector or not spec.checkpoint.projector:
        side = projector or archive
        vision_config = _config(side) if projector else config
        encoder = _multimodal(side, vision_config).get("vision_encoder") or {}
        layout = _frames(side, vision_config) if projector else {}
    tower = side.parent / Path(str(encoder.get("from_pretrained"))).name
    rows = _rows(tower, encoder)
    hidden = jsonfile.number(config, "hidden_size", archive, CONFIG)
    if hidden is None:
        raise Refused(error("config-incomplete", f"{CONFIG} states no hidden_size", archive, AGAIN))
    vocab = _vocab_size(archive, config)
    return CheckpointFacts(
        path=archive,
        llm_config=archive,
        model_type="nemo",
        vocab_size=vocab,
        hidden_size=hidden,
        max_positions=jsonfile.number(config, "max_position_embeddings", archive, CONFIG),
        image_token_id=None,
        pixels=checkpoint.pixels(tower / "preprocessor_config.json", variant.pixels),
        rows_per_image=rows and rows * layout.get("num_frames", 1),
        layout=layout,
        has_weights=archive.is_file(),
        num_heads=checkpoint.heads(config),
        llm_size=llm_size(config, hidden, vocab),
    )


def tokenizer(path: Path, spec: ModelSpec) -> SentencePieceFacts:
    """The tokenizer of an archive (or of a folder with one), or a model file in a folder that the user names.

    Raises:
        Refused: there is none, or it is not sentencepiece's.
    """
    own = path / spec.tokenizer.file
    if own.is_file():
        return sentencepiece_model.facts(own.read_bytes(), str(own))
    archive = find(path, spec.checkpoint.archive)
    with jsonfile.reading(archive, CONFIG):
        return sentencepiece_model.facts(_tokenizer_model(archive, _config(archive)), str(archive))


def _config(archive: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        what = f"PyYAML is not installed, and {CONFIG} of the archive is read with it"
        remedy = "pip install 'gen-repo[hf]'"
        raise Refused(error("yaml-missing", what, archive, remedy), exit_code=EXIT_ENVIRONMENT) from None
    with _member(archive, CONFIG) as stream:
        content = stream.read(jsonfile.MAX_CONFIG_BYTES)
    try:
        config = _parsed(content)
    except yaml.YAMLError:
        raise Refused(error("config-invalid", f"{CONFIG} is no YAML", archive, AGAIN)) from None
    if not isinstance(config, dict):
        raise Refused(error("config-invalid", f"{CONFIG} holds no settings", archive, AGAIN))
    return config


@lru_cache(maxsize=8)  # an archive's config is asked for by what reads the model and by what reads the tokenizer
def _parsed(content: bytes) -> Any:
    """YAML, read in Python: libyaml's loader is quicker, but ends the process on deeply nested lists."""
    import yaml

    return yaml.safe_load(content)


@contextlib.contextmanager
def _member(archive: Path, *names: str) -> Iterator[Any]:
    """A stream of the first file in the archive that has one of `names`."""
    try:
        with tarfile.open(archive) as content:
            found = next((entry for entry in content if entry.name.removeprefix("./") in names), None)
            stream = content.extractfile(found) if found else None
            if stream is None:
                what = f"the archive holds no {' or '.join(names)}"
                raise Refused(error("checkpoint-incomplete", what, archive, AGAIN))
            yield stream
    except (tarfile.TarError, EOFError, OSError) as problem:
        what = f"no readable .nemo archive: {problem}"
        raise Refused(error("checkpoint-unreadable", what, archive, GIVE)) from None


def _multimodal(archive: Path, config: dict[str, Any]) -> dict[str, Any]:
    vision = config.get("mm_cfg")
    if not isinstance(vision, dict):
        what = f"{CONFIG} has no mm_cfg: a model without a vision side"
        raise Refused(error("wrong-checkpoint", what, archive, "give the archive of a multimodal model"))
    if vision.get("use_im_start_end"):
        what = "trained with image start and end tokens (mm_cfg.use_im_start_end), which NVIDIA's engines do not place"
        raise Refused(
            error("unsupported-checkpoint", what, archive, "use a model trained with use_im_start_end: False")
        )
    return vision


def _frames(archive: Path, config: dict[str, Any]) -> dict[str, int]:
    """The number of frames of a clip."""
    frames = (config.get("data") or {}).get("num_frames")
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        what = f"data.num_frames of {CONFIG} is {frames!r}; the engine takes a fixed number of frames"
        raise Refused(error("config-invalid", what, archive, "give a projector trained with a number of frames"))
    return {"num_frames": frames}


def _tokenizer_model(archive: Path, config: dict[str, Any]) -> bytes:
    stated = config.get("tokenizer") or {}
    if stated.get("library") != "sentencepiece":
        what = f"the tokenizer is of {stated.get('library')!r}; only sentencepiece's is served"
        raise Refused(error("tokenizer-unreadable", what, archive, "give its tokenizer.model with --tokenizer-dir"))
    with _member(archive, str(stated.get("model")).removeprefix("nemo:")) as stream:
        content: bytes = stream.read()
    return content


def _rows(tower: Path, encoder: dict[str, Any]) -> int | None:
    """Rows of one image: the tower's tokens without as many as NeMo is configured to drop; None without a tower."""
    if not (tower / "config.json").is_file():
        return None
    config = jsonfile.read(tower / "config.json", "config.json of the vision tower", "download the tower again")
    patches = checkpoint.patch_rows(config.get("vision_config", config), merge=False)
    if patches is None:
        return None
    dropped = 0 if encoder.get("vision_select_feature") == "cls_patch" else int(encoder.get("class_token_length", 1))
    return patches + CLASS_TOKENS.get(str(config.get("model_type")), 0) - dropped


def _vocab_size(archive: Path, config: dict[str, Any]) -> int:
    """Rows of the word embedding: from the weights where torch can say, else as NeMo pads the tokenizer's size."""
    parallel = int(config.get("tensor_model_parallel_size") or 1)
    try:
        import torch
    except ImportError:
        multiple = int(config.get("make_vocab_size_divisible_by") or 128) * parallel
        pieces = sentencepiece_model.facts(_tokenizer_model(archive, config), str(archive)).vocabulary
        return -(-pieces // multiple) * multiple
    with _member(archive, *WEIGHTS) as stream:
        ranks = parallel if Path(stream.name).parent.name else 1
        # Transformer Engine's extra states are io.BytesIO, which torch does not count as harmless on its own.
        try:
            with torch.serialization.safe_globals([io.BytesIO, bytes]), torch.serialization.skip_data():
                weights = torch.load(stream, map_location="meta", weights_only=True)
        except Exception as problem:  # whatever torch's reader makes of a file that is not its own
            first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
            what = f"the archive's weights cannot be read: {first}"
            raise Refused(error("checkpoint-unreadable", what, archive, AGAIN)) from None
    if EMBEDDING not in weights:
        raise Refused(error("checkpoint-incomplete", f"the archive has no weight {EMBEDDING}", archive, AGAIN))
    return len(weights[EMBEDDING]) * ranks
