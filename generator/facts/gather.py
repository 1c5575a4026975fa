"""Reads everything that exists on disk for one run: given directories, or the guide's default ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from generator import folders, release
from generator.facts import checkpoint, engines, font, nemo, tokenizer
from generator.facts.checkpoint import CheckpointFacts
from generator.facts.engines import LlmEngineFacts, VisionEngineFacts
from generator.facts.font import FontFacts
from generator.facts.tokenizer import TokenizerFacts
from generator.findings import Finding, Refused, error, warning
from generator.options import Options
from generator.spec import ModelSpec, Variant


@dataclass(frozen=True)
class Places:
    """Where things lie, or would lie once built: the user's directories, else the guide's layout."""

    checkpoint: Path
    tokenizer: Path
    vision_engine: Path
    llm_engine: Path
    projector: Path | None = None


@dataclass(frozen=True)
class Facts:
    """All facts of one run; None = not on disk. `projector`: the archive of the vision side, where that is another."""

    places: Places
    checkpoint: CheckpointFacts | None
    tokenizer: TokenizerFacts | None
    vision_engine: VisionEngineFacts | None
    llm_engine: LlmEngineFacts | None
    projector: Path | None = None
    font: FontFacts | None = None


def places(options: Options, spec: ModelSpec, variant: Variant, release_name: str) -> Places:
    """The guide's layout below the working directory, with the user's directories in their place."""
    engines_root = Path("tmp/trt_engines") / variant.name
    chosen = options.quantization or "none"
    built = engines_root / folders.fill(spec.build.engine_folder, spec.dtype, chosen, options.tp or 1, options.pp or 1)
    together = release.of(release_name).one_engine_folder
    archive = spec.checkpoint.archive
    checkpoint_dir = options.hf_model_dir or (Path(archive) if archive else Path("tmp/hf_models") / variant.name)
    own_tokenizer = checkpoint_dir / spec.llm_folder
    if spec.build.tokenizer_source:
        own_tokenizer = checkpoint_dir.parent / spec.build.tokenizer_source.split("/")[-1]
    return Places(
        checkpoint=checkpoint_dir,
        tokenizer=options.tokenizer_dir or own_tokenizer,
        vision_engine=options.visual_engine_dir
        or (built / "vision" if together else engines_root / spec.build.vision_folder),
        llm_engine=options.llm_engine_dir or (built / "llm" if together else built),
        projector=options.projector or (Path(spec.checkpoint.projector) if spec.checkpoint.projector else None),
    )


def _default_release(options: Options, spec: ModelSpec) -> str:
    return release.resolve(options.release) if options.release else spec.default_release


def gather(options: Options, spec: ModelSpec, variant: Variant) -> tuple[Facts, list[Finding]]:
    """Reads what is there. A directory that the user named must be readable; a default one may be absent.

    Returns:
        The facts, and findings of the readers (errors of several directories are reported together).
    """
    where = places(options, spec, variant, _default_release(options, spec))
    findings: list[Finding] = []
    root = options.working_dir

    def wanted(given: Path | None, default: Path, option: str, code: str = "no-such-directory") -> Path | None:
        folder = root / (given or default)
        if folder.is_dir() or (spec.checkpoint.archive and folder.is_file()):
            return folder.resolve()
        if given is not None:
            kind = "file or directory" if spec.checkpoint.archive else "directory"
            what = f"{option} names no {kind}: {str(given)!r}"
            findings.append(error(code, what, option, "correct the path or leave the option out"))
        return None

    checkpoint_dir = wanted(options.hf_model_dir, where.checkpoint, "--hf-model-dir")
    vision_dir = wanted(options.visual_engine_dir, where.vision_engine, "--visual-engine-dir")
    llm_dir = wanted(options.llm_engine_dir, where.llm_engine, "--llm-engine-dir")
    projector = where.projector and wanted(options.projector, where.projector, "--projector", "projector-missing")
    if options.projector and not spec.checkpoint.projector:
        what = f"the vision side of {spec.title} is part of its checkpoint"
        findings.append(error("no-projector", what, "--projector", "leave it out"))
    if options.header_font and not spec.media.font:
        what = f"{spec.title} draws no text into its images"
        findings.append(error("no-header-font", what, "--header-font", "leave it out"))
    tokenizer_dir = wanted(options.tokenizer_dir, where.tokenizer, "--tokenizer-dir")

    found_checkpoint: CheckpointFacts | None = None
    found_tokenizer: TokenizerFacts | None = None
    found_vision: VisionEngineFacts | None = None
    found_llm: LlmEngineFacts | None = None
    try:
        if checkpoint_dir:
            if spec.checkpoint.archive:
                found_checkpoint = nemo.read(checkpoint_dir, spec, variant, projector)
            else:
                found_checkpoint = checkpoint.read(checkpoint_dir, spec, variant)
            checkpoint_dir = found_checkpoint.path
    except Refused as refused:
        if refused.exit_code != 1:
            raise
        findings.extend(refused.findings)
    found_font: FontFacts | None = None
    try:
        if spec.media.font:
            found_font = _font(options, checkpoint_dir)
    except Refused as refused:
        findings.extend(refused.findings)
    try:
        if vision_dir:
            found_vision = engines.vision_engine(vision_dir)
    except Refused as refused:
        findings.extend(refused.findings)
    try:
        if llm_dir:
            found_llm = engines.llm_engine(llm_dir)
    except Refused as refused:
        findings.extend(refused.findings)
    if tokenizer_dir and (options.tokenizer_dir or found_checkpoint):
        try:
            if spec.checkpoint.archive:
                found_tokenizer = nemo.tokenizer(tokenizer_dir, spec)
            else:
                found_tokenizer, more = tokenizer.read(tokenizer_dir, options.tokenizer, spec.image_mark)
                findings.extend(more)
                found_tokenizer = found_tokenizer.respelled(spec.tokenizer.spelled)
        except Refused as refused:
            if refused.exit_code != 1:
                raise
            findings.extend(refused.findings)
    if found_checkpoint and where.projector and not projector and not options.projector:
        what = f"the archive with the vision side, {where.projector}, is not there: its numbers are the spec's"
        findings.append(warning("projector-missing", what, found_checkpoint.path, "give the archive with --projector"))
    facts = Facts(
        places=Places(
            checkpoint=checkpoint_dir or where.checkpoint,
            tokenizer=tokenizer_dir or where.tokenizer,
            vision_engine=found_vision.folder if found_vision else vision_dir or where.vision_engine,
            llm_engine=found_llm.folder if found_llm else llm_dir or where.llm_engine,
            projector=projector or where.projector,
        ),
        checkpoint=found_checkpoint,
        tokenizer=found_tokenizer,
        vision_engine=found_vision,
        llm_engine=found_llm,
        projector=projector or None,
        font=found_font,
    )
    return facts, findings


def _font(options: Options, checkpoint_dir: Path | None) -> FontFacts | None:
    """The user's font, else the one in the checkpoint."""
    if options.header_font:
        return font.read((options.working_dir / options.header_font).absolute())
    own = font.find(checkpoint_dir) if checkpoint_dir else None
    return font.read(own) if own else None
