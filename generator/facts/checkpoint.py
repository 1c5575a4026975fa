"""Facts of a checkpoint directory: Hugging Face's layout, and the original VILA layout with sub-folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from generator import models
from generator.facts import jsonfile
from generator.findings import Refused, error
from generator.sizes import LlmSize, llm_size
from generator.spec import CheckpointSpec, ModelSpec, PixelSpec, Variant

DOWNLOAD = "point --hf-model-dir at a complete checkpoint (build_engines.sh downloads it)"


@dataclass(frozen=True)
class CheckpointFacts:
    """What the checkpoint's config files say; None where they are silent.

    Attributes:
        path: the checkpoint, a folder or a file; `llm_config`: the file that states the LLM's numbers.
        pixels: from preprocessor_config.json.
        rows_per_image: computed from the vision tower's numbers, or stated.
        layout: settings of the image layout that config.json states.
        start_token_id: what a separate decoder starts from.
        num_heads: attention heads of the LLM.
    """

    path: Path
    llm_config: Path
    model_type: str
    vocab_size: int
    hidden_size: int
    max_positions: int | None
    image_token_id: int | None
    pixels: PixelSpec | None
    rows_per_image: int | None
    layout: Mapping[str, Any]
    has_weights: bool
    start_token_id: int | None = None
    num_heads: int | None = None
    llm_size: LlmSize | None = None


def _size(value: Any, key: str, path: Path) -> int:
    if isinstance(value, dict):
        value = value.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        what = f"size entry {key!r} of preprocessor_config.json is {value!r}"
        raise Refused(error("config-invalid", what, path, DOWNLOAD))
    return value


def _triple(value: Any, name: str, path: Path) -> tuple[float, float, float]:
    if isinstance(value, float):
        value = [value] * 3
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(v, int | float) for v in value):
        what = f"{name} of preprocessor_config.json is {value!r}, not three numbers"
        raise Refused(error("config-invalid", what, path, DOWNLOAD))
    return float(value[0]), float(value[1]), float(value[2])


def pixels(
    path: Path,
    known: PixelSpec,
    *,
    fixed: bool = True,
    squash: bool = False,
    squash_first: bool = False,
    pad_square: bool = False,
) -> PixelSpec | None:
    """Geometry and normalisation of an image processor's config (CLIPImageProcessor and its kin).

    Args:
        known: the spec's, for what the config does not say.
        fixed: the config's sizes are the geometry; otherwise the image layout has its own.
        squash: the config's short edge is meant as a square.
        squash_first, pad_square: what the model's own code does to the image before that processor sees it.
    """
    if not path.is_file() or not known.mean:
        return None
    config = jsonfile.read(path, "preprocessor_config.json", DOWNLOAD)
    config = config.get("image_processor", config)  # processor_config.json of transformers 5 nests it
    with jsonfile.reading(path, "preprocessor_config.json"):
        values = replace(
            known,
            mean=_triple(config.get("image_mean"), "image_mean", path),
            std=_triple(config.get("image_std"), "image_std", path),
            resample=int(config.get("resample", known.resample)),
            rescale_factor=float(config.get("rescale_factor", known.rescale_factor)),
        )
    if not fixed:
        return values
    size, crop = config.get("size"), config.get("crop_size")
    if isinstance(size, int) and crop is not None and config.get("do_center_crop", True):
        size = {"shortest_edge": size}  # as older processors with a crop wrote it
    steps: list[tuple[str | int, ...]] = []
    if pad_square:
        steps.append(("pad_square", *(int(255 * channel) for channel in values.mean)))
    if isinstance(size, dict) and "shortest_edge" in size:
        height = width = _size(size, "shortest_edge", path)
        if squash or squash_first:
            steps.append(("resize", height, width))
        else:
            steps.append(("resize_shortest", height))
            if config.get("do_center_crop", True):
                height, width = _size(crop, "height", path), _size(crop, "width", path)
                steps.append(("center_crop", height, width))
    else:
        height, width = _size(size, "height", path), _size(size, "width", path)
        steps.append(("resize", height, width))
    if config.get("do_convert_rgb", True):
        first = len(steps) if squash_first or pad_square else 0
        steps.insert(first, ("on_white",))
    return replace(values, steps=tuple(steps), shape=(3, height, width))


def _stated(config: dict[str, Any], keys: Mapping[str, str], known: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Settings that `config` states, by the setting's name; each must be of the kind of the `known` one."""
    stated = {name: config[key] for name, key in keys.items() if key in config}
    for name, value in stated.items():
        if not jsonfile.alike(value, known[name]):
            what = f"{keys[name]} of {path.name} is {str(value)[:60]!r}, expected is something like {known[name]!r}"
            raise Refused(error("config-invalid", what, path, DOWNLOAD))
    return stated


def patch_rows(vision: dict[str, Any], merge: bool = False, more: int = 0) -> int | None:
    """Patches of the vision tower's input, and `more` rows. After each stage of a Swin tower but the last they are
    merged two by two, as those of any tower are when `merge`; an odd side is padded."""
    size, patch, stages = vision.get("image_size"), vision.get("patch_size"), vision.get("depths")
    sides: list[Any] = size if isinstance(size, list) and len(size) == 2 else [size, size]
    if not all(isinstance(side, int) for side in sides) or not isinstance(patch, int) or patch <= 0:
        return None
    merges = len(stages) - 1 if isinstance(stages, list) else int(merge)
    height, width = (-(-(side // patch) // (1 << merges)) for side in sides)
    return int(height * width) + more


def _weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))


def _llm_numbers(llm: dict[str, Any], path: Path, where: CheckpointSpec) -> tuple[int, int]:
    """(vocab_size, hidden_size); transformers leaves out values that equal the defaults of the config's class."""
    vocab = jsonfile.number(llm, "vocab_size", path, "the checkpoint") or where.llm_defaults[0]
    hidden = jsonfile.number(llm, where.hidden_size, path, "the checkpoint") or where.llm_defaults[1]
    return vocab, hidden


def heads(llm: Mapping[str, Any]) -> int | None:
    """Attention heads of an LLM, by the name that its config has for them."""
    found = (llm.get(key) for key in ("num_attention_heads", "attention_heads", "num_heads"))
    return next((value for value in found if isinstance(value, int) and value > 0), None)


def read(folder: Path, spec: ModelSpec, variant: Variant) -> CheckpointFacts:
    """Reads a checkpoint of the model that `spec` describes; `variant` has what no config file states.

    Raises:
        Refused: no readable config.json, or the checkpoint is another model's.
    """
    path = folder / "config.json"
    config = jsonfile.read(path, "config.json of the checkpoint", DOWNLOAD)
    with jsonfile.reading(path, "a config file of the checkpoint"):
        return _read(folder, spec, variant, config)


def _read(folder: Path, spec: ModelSpec, variant: Variant, config: dict[str, Any]) -> CheckpointFacts:
    path = folder / "config.json"
    model_type = str(config.get("model_type") or next(iter(config.get("architectures") or ()), None))
    if model_type not in spec.checkpoint_model_types or spec.checkpoint.other_model in config:
        raise Refused(
            error(
                "wrong-checkpoint",
                f"the checkpoint's model_type is {model_type!r}, {spec.title} has "
                f"{' or '.join(repr(t) for t in spec.checkpoint_model_types)}"
                + (f" without {spec.checkpoint.other_model}" if spec.checkpoint.other_model in config else ""),
                path,
                f"give the checkpoint of this model, or another --model ({_fitting(model_type, spec)})",
            )
        )
    return (
        _with_llm_folder(folder, spec, variant, config)
        if spec.llm_folder
        else _one_folder(folder, spec, variant, config)
    )


def _one_folder(folder: Path, spec: ModelSpec, variant: Variant, config: dict[str, Any]) -> CheckpointFacts:
    path, where = folder / "config.json", spec.checkpoint
    text = (config.get(where.llm) or {}) if where.llm else config
    if where.llm_types and text.get("model_type") not in where.llm_types:
        wanted = " or ".join(repr(t) for t in where.llm_types)
        what = f"the checkpoint's language model is {text.get('model_type')!r}, {spec.title} has {wanted}"
        remedy = (
            f"give the checkpoint of this model, or another --model ({_fitting(str(config.get('model_type')), spec)})"
        )
        raise Refused(error("wrong-checkpoint", what, path, remedy))
    vocab, hidden = _llm_numbers(text, path, where)
    stated = jsonfile.number(config, where.rows, path, "the checkpoint") if where.rows else None
    preprocessor = folder / "preprocessor_config.json"
    if not preprocessor.is_file():
        preprocessor = folder / "processor_config.json"
    processor: dict[str, Any] = {}
    if spec.layout.from_processor and preprocessor.is_file():
        processor = jsonfile.read(preprocessor, "preprocessor_config.json", DOWNLOAD)
        processor = processor.get("image_processor", processor)
    _check_processor(preprocessor, spec)
    known = spec.layout.settings
    layout = _stated(config, spec.layout.from_config, known, path)
    layout |= _stated(processor, spec.layout.from_processor, known, preprocessor)
    made = pixels(preprocessor, variant.pixels, fixed=spec.layout.module == "fixed_rows", squash=where.squash)
    if made and "size" in layout:
        height, width = (_size(layout["size"], side, preprocessor) for side in ("height", "width"))
        made = replace(made, shape=(3, height, width))
    return CheckpointFacts(
        path=folder,
        llm_config=path,
        model_type=str(config.get("model_type")),
        vocab_size=vocab,
        hidden_size=hidden,
        max_positions=jsonfile.number(text, "max_position_embeddings", path, "the checkpoint"),
        image_token_id=config.get("image_token_index", config.get("image_token_id")),
        pixels=made,
        rows_per_image=stated if where.rows else patch_rows(config.get(where.vision) or {}, more=where.more_rows),
        layout=layout,
        has_weights=_weights(folder),
        start_token_id=_start(config, where.start, path),
        num_heads=heads(text),
        llm_size=llm_size(text, hidden, vocab),
    )


def _check_processor(path: Path, spec: ModelSpec) -> None:
    """Raises Refused when the image processor is set up differently from what the repository is made for."""
    if not spec.checkpoint.processor or not path.is_file():
        return
    config = jsonfile.read(path, "preprocessor_config.json", DOWNLOAD)
    config = config.get("image_processor", config)
    for key, wanted in spec.checkpoint.processor.items():
        if config.get(key) != wanted:
            what = f"{key} of preprocessor_config.json is {config.get(key)!r}, {spec.title} is served with {wanted!r}"
            raise Refused(error("processor-differs", what, path, DOWNLOAD))


def _fitting(model_type: str, spec: ModelSpec) -> str:
    """Which models a checkpoint of another model may be meant for."""
    others = [name for name in models.of_checkpoint(model_type) if name != spec.name]
    return " or ".join(others) or "see `gen-repo list`"


def _start(config: dict[str, Any], keys: tuple[str, ...], path: Path) -> int | None:
    """The decoder's start token, which may be 0; None where config.json does not state it."""
    *sections, name = keys or ("",)
    for section in sections:
        config = config.get(section) or {}
    value = config.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        what = f"{'.'.join(keys)} of the checkpoint's config.json is {value!r}, not a token id"
        raise Refused(error("config-invalid", what, path, DOWNLOAD))
    return value


def _with_llm_folder(folder: Path, spec: ModelSpec, variant: Variant, config: dict[str, Any]) -> CheckpointFacts:
    llm_folder = folder / spec.llm_folder
    path = llm_folder / "config.json"
    llm = jsonfile.read(path, "config.json of the checkpoint's LLM", DOWNLOAD)
    vocab, hidden = _llm_numbers(llm, path, spec.checkpoint)
    tower_folder = folder / "vision_tower"
    tower: dict[str, Any] = {}
    if (tower_folder / "config.json").is_file():
        tower = jsonfile.read(tower_folder / "config.json", "config.json of the vision tower", DOWNLOAD)
        tower = tower.get("vision_config", tower)
    projector = config.get("mm_projector_cfg")
    kind = str(projector.get("mm_projector_type") if isinstance(projector, dict) else config.get("mm_projector_type"))
    aspect = config.get("image_aspect_ratio")
    return CheckpointFacts(
        path=folder,
        llm_config=path,
        model_type=str(config.get("model_type")),
        vocab_size=vocab,
        hidden_size=hidden,
        max_positions=jsonfile.number(llm, "max_position_embeddings", path, "the checkpoint"),
        image_token_id=None,
        pixels=pixels(
            tower_folder / "preprocessor_config.json",
            variant.pixels,
            squash_first=aspect == "resize",
            pad_square=aspect == "pad",
        ),
        rows_per_image=patch_rows(tower, merge="downsample" in kind),
        layout={},
        has_weights=_weights(llm_folder),
        num_heads=heads(llm),
        llm_size=llm_size(llm, hidden, vocab),
    )
