"""Facts of TensorRT engines, read from the config.json beside them (TensorRT-LLM 0.12 to 1.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from generator import sizes
from generator.facts import jsonfile
from generator.findings import Refused, error
from generator.options import PixelForm
from generator.sizes import LlmSize

OWN_SECTION = "gen_repo"  # of the config.json that `gen-repo build-vision` writes
VISION_ENGINE_FILES = ("model.engine", "visual_encoder.engine", "rank0.engine")
MAX_RANKS = 4096
BUILD = "build it with build_engines.sh, or point the option at the folder that holds config.json and the engine"


@dataclass(frozen=True)
class RequestsForm:
    """How a vision engine takes whole requests [B, n, ...] and gives their prompt tables.

    Attributes:
        max_entries: largest n. rows: of one entry.
        constant_rows: that the engine puts before those of the entries. table_dtype: of the table.
    """

    max_entries: int
    rows: int
    constant_rows: int
    table_dtype: str


@dataclass(frozen=True)
class VisionEngineFacts:
    """A vision engine: `max_batch_size` and `rows`/`hidden_size` are None where its release does not write them.

    `pixels` and `normalisation` (rescale_factor, mean, std) are of engines by `gen-repo build-vision` that take levels;
    `own` says that it built this one, `requests` how it takes whole requests, None = images. `max_batch_size` counts
    the one or the other. `output_axes` are the output's, the batch included.
    """

    folder: Path
    file: Path
    model_type: str | None
    dtype: str
    max_batch_size: int | None
    rows: int | None
    hidden_size: int | None
    num_frames: int | None
    pixels: PixelForm
    normalisation: Mapping[str, Any] | None
    own: bool = False
    requests: RequestsForm | None = None
    output_axes: int | None = None

    @property
    def most_entries(self) -> int | None:
        """Entries of one call: images, or those of all requests."""
        each = self.requests.max_entries if self.requests else 1
        return self.max_batch_size and self.max_batch_size * each


@dataclass(frozen=True)
class LlmEngineFacts:
    """The engine of a decoder, and of the encoder before it where there is one. Sizes are of all ranks together.

    Attributes:
        folder: what the option names. config: the config.json of the decoder.
        max_input_len: of what the prompt goes to, the encoder where there is one.
        max_seq_len: of the decoder.
        max_table_rows: build_config.max_prompt_embedding_table_size of what the prompt goes to (called
            --max_multimodal_len on the command line).
        packed: it takes sequences without padding (remove_input_padding).
        max_encoder_input_len: positions of one request that the decoder attends to; None = it attends to its own only.
        encoder: the encoder's own facts.
    """

    folder: Path
    config: Path
    version: str | None
    architecture: str | None
    dtype: str
    vocab_size: int
    hidden_size: int
    tp: int
    pp: int
    quantization: str | None
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int | None
    max_table_rows: int
    max_beam_width: int
    paged_kv_cache: bool
    paged_context_fmha: bool
    packed: bool
    attention_plugin: bool
    kv_quantization: str | None
    lora: bool
    weight_streaming: bool
    gathers_context_logits: bool
    gathers_generation_logits: bool
    size: LlmSize | None
    rank_bytes: int  # of the largest rank file, the encoder's added to the decoder's
    max_encoder_input_len: int | None = None
    encoder: LlmEngineFacts | None = None

    @property
    def world_size(self) -> int:
        return self.tp * self.pp


def _engine_folder(folder: Path, sub: str) -> Path:
    """Releases from 0.19 on put both engines below one folder, as `vision` and `llm`."""

    def has_engine(place: Path) -> bool:
        return any((place / part / "config.json").exists() for part in (".", "decoder"))

    return folder / sub if not has_engine(folder) and has_engine(folder / sub) else folder


def vision_engine(folder: Path) -> VisionEngineFacts:
    """Reads a vision engine folder.

    Raises:
        Refused: no readable config.json, no engine file, or a config of something else.
    """
    folder = _engine_folder(folder, "vision")
    path = folder / "config.json"
    config = jsonfile.read(path, "config.json of the vision engine", f"--visual-engine-dir: {BUILD}")
    with jsonfile.reading(path, "config.json of the vision engine"):
        return _vision_facts(folder, path, config)


def _vision_facts(folder: Path, path: Path, config: dict[str, Any]) -> VisionEngineFacts:
    builder = config.get("builder_config") or config.get("pretrained_config")
    if not isinstance(builder, dict):
        what = "config.json has no builder_config, so this is not a vision engine"
        if "build_config" in config:
            what += "; it looks like an LLM engine"
        raise Refused(error("not-a-vision-engine", what, path, "swap --visual-engine-dir and --llm-engine-dir"))
    if "build_config" in config and "pretrained_config" in config and "vision" not in str(builder.get("architecture")):
        what = "config.json has pretrained_config and build_config: this is an LLM engine"
        raise Refused(error("not-a-vision-engine", what, path, "swap --visual-engine-dir and --llm-engine-dir"))
    file = next((folder / name for name in VISION_ENGINE_FILES if (folder / name).is_file()), None)
    if file is None:
        names = ", ".join(VISION_ENGINE_FILES)
        raise Refused(error("engine-missing", f"no engine file beside config.json; looked for {names}", folder, BUILD))
    own = config.get(OWN_SECTION) or {}
    shape = builder.get("output_shape")
    *batch_and_rows, hidden = shape if isinstance(shape, list) and len(shape) >= 2 else (None, None)
    grid = batch_and_rows[1:] or batch_and_rows  # several axes where rows come frame by frame
    rows = math.prod(grid) if all(isinstance(side, int) and side > 0 for side in grid) else None
    requests = _requests_form(own["requests"], path) if own.get("requests") else None
    return VisionEngineFacts(
        folder=folder,
        file=file,
        model_type=jsonfile.text(builder, "model_type", path, "the vision engine"),
        dtype=str(builder.get("precision") or builder.get("dtype") or "float16"),
        max_batch_size=jsonfile.number(builder, "max_batch_size", path, "the vision engine"),
        rows=requests.rows if requests else rows,
        hidden_size=hidden if isinstance(hidden, int) and hidden > 0 else None,
        num_frames=jsonfile.number(builder, "num_frames", path, "the vision engine"),
        pixels="uint8" if own.get("pixels") == "uint8" else "float",
        normalisation=own.get("normalisation"),
        own=bool(own),
        requests=requests,
        output_axes=len(shape) if isinstance(shape, list) else None,
    )


def _requests_form(section: dict[str, Any], path: Path) -> RequestsForm:
    names = ("max_entries", "rows", "constant_rows")
    entries, rows, constants = (jsonfile.number(section, name, path, "the vision engine") for name in names)
    if not entries or not rows or constants is None:
        what = f"config.json of the vision engine does not state {', '.join(names)} of the requests that it takes"
        raise Refused(error("config-incomplete", what, path, "build it again with gen-repo build-vision"))
    return RequestsForm(entries, rows, constants, str(section.get("table_dtype")))


def llm_engine(folder: Path) -> LlmEngineFacts:
    """Reads an LLM engine folder, or one that holds the engines of an encoder-decoder as `decoder/` and `encoder/`.

    Raises:
        Refused: no readable config.json, missing numbers or rank files, or a config of something else.
    """
    folder = _engine_folder(folder, "llm")
    if (folder / "config.json").exists() or not (folder / "decoder" / "config.json").exists():
        return _llm_part(folder)
    decoder = replace(_llm_part(folder / "decoder"), folder=folder)
    if not (folder / "encoder" / "config.json").exists():
        return decoder
    encoder = _llm_part(folder / "encoder")
    return replace(
        decoder,
        encoder=encoder,
        packed=encoder.packed and decoder.packed,
        max_batch_size=min(encoder.max_batch_size, decoder.max_batch_size),
        max_input_len=min(encoder.max_input_len, decoder.max_encoder_input_len or encoder.max_input_len),
        max_table_rows=encoder.max_table_rows,
        rank_bytes=encoder.rank_bytes + decoder.rank_bytes,
    )


def _llm_part(folder: Path) -> LlmEngineFacts:
    path = folder / "config.json"
    config = jsonfile.read(path, "config.json of the LLM engine", f"--llm-engine-dir: {BUILD}")
    with jsonfile.reading(path, "config.json of the LLM engine"):
        return _llm_facts(folder, path, config)


def _llm_facts(folder: Path, path: Path, config: dict[str, Any]) -> LlmEngineFacts:
    pretrained, build = config.get("pretrained_config"), config.get("build_config")
    if not isinstance(pretrained, dict) or not isinstance(build, dict):
        what = "config.json lacks pretrained_config and build_config, so this is not an LLM engine"
        if "builder_config" in config:
            what += "; it looks like a vision engine"
        raise Refused(error("not-an-llm-engine", what, path, "swap --visual-engine-dir and --llm-engine-dir"))

    def required(section: dict[str, Any], key: str) -> int:
        value = jsonfile.number(section, key, path, "the LLM engine")
        if value is None:
            what = f"config.json of the LLM engine does not state {key}"
            raise Refused(error("config-incomplete", what, path, "build the engine with a release from 0.12 to 1.2.1"))
        if value == 0:
            raise Refused(error("config-invalid", f"{key} of the LLM engine is 0, at least 1 is needed", path, BUILD))
        return value

    mapping = pretrained.get("mapping") or {}
    plugins = build.get("plugin_config") or {}
    quantization = pretrained.get("quantization") or {}
    tp, pp = (jsonfile.number(mapping, key, path, "the LLM engine") or 1 for key in ("tp_size", "pp_size"))
    if tp * pp > MAX_RANKS:
        what = f"tp {tp} x pp {pp} are {tp * pp} ranks, at most {MAX_RANKS} are expected"
        raise Refused(error("config-invalid", what, path, BUILD))
    missing = [f"rank{r}.engine" for r in range(tp * pp) if not (folder / f"rank{r}.engine").is_file()]
    if missing:
        what = f"{len(missing)} of {tp * pp} rank files missing: {', '.join(missing[:4])}"
        raise Refused(error("engine-missing", f"{what} (tp {tp} x pp {pp})", folder, BUILD))
    architecture = jsonfile.text(pretrained, "architecture", path, "the LLM engine")
    # An encoder's sequence is its input, and some releases state only that.
    seq_len = required(build, "max_input_len" if architecture == "EncoderModel" else "max_seq_len")
    # Every build_config has max_encoder_input_len, whether or not the model attends to anything.
    attends = architecture == "DecoderModel" or bool(pretrained.get("cross_attention"))
    return LlmEngineFacts(
        folder=folder,
        config=path,
        version=jsonfile.text(config, "version", path, "the LLM engine"),
        architecture=architecture,
        dtype=str(pretrained.get("dtype", "float16")),
        vocab_size=required(pretrained, "vocab_size"),
        hidden_size=required(pretrained, "hidden_size"),
        tp=tp,
        pp=pp,
        quantization=jsonfile.text(quantization, "quant_algo", path, "the LLM engine"),
        max_batch_size=required(build, "max_batch_size"),
        max_input_len=jsonfile.number(build, "max_input_len", path, "the LLM engine") or seq_len,
        max_seq_len=seq_len,
        max_num_tokens=jsonfile.number(build, "max_num_tokens", path, "the LLM engine"),
        max_table_rows=jsonfile.number(build, "max_prompt_embedding_table_size", path, "the LLM engine") or 0,
        max_beam_width=jsonfile.number(build, "max_beam_width", path, "the LLM engine") or 1,
        paged_kv_cache=bool(plugins.get("paged_kv_cache", True)),
        paged_context_fmha=bool(plugins.get("use_paged_context_fmha", False)),
        packed=bool(plugins.get("remove_input_padding", True)),
        attention_plugin=plugins.get("gpt_attention_plugin", "auto") is not None,
        kv_quantization=jsonfile.text(quantization, "kv_cache_quant_algo", path, "the LLM engine"),
        lora=bool(plugins.get("lora_plugin")),
        weight_streaming=bool(build.get("weight_streaming", False)),
        gathers_context_logits=bool(build.get("gather_context_logits", False)),
        gathers_generation_logits=bool(build.get("gather_generation_logits", False)),
        size=sizes.llm_size(pretrained, required(pretrained, "hidden_size"), required(pretrained, "vocab_size")),
        rank_bytes=max((folder / f"rank{r}.engine").stat().st_size for r in range(tp * pp)),
        max_encoder_input_len=required(build, "max_encoder_input_len") if attends else None,
    )
