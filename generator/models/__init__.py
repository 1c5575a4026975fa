"""The registry: one module per model in this folder, each with a `SPEC`."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil

from generator.findings import EXIT_USAGE, Refused, error
from generator.spec import ModelSpec, Variant


@functools.cache
def specs() -> dict[str, ModelSpec]:
    """All specs by model name, sorted."""
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    found = {module.SPEC.name: module.SPEC for module in modules}
    return dict(sorted(found.items()))


def of_checkpoint(model_type: str) -> list[str]:
    """Names of the models whose checkpoints have this `model_type`."""
    return [name for name, spec in specs().items() if model_type in spec.checkpoint_model_types]


def find(name: str) -> tuple[ModelSpec, Variant]:
    """The spec and variant that a model or variant name means; a model's own name means its first variant.

    Raises:
        Refused: unknown name (the error lists the known ones and the closest), or a variant that is refused.
    """
    known: dict[str, tuple[ModelSpec, Variant]] = {}
    for spec in specs().values():
        known[spec.name] = (spec, spec.variants[0])
        known.update((variant.name, (spec, variant)) for variant in spec.variants)
    wanted = name.lower()
    by_lower = {key.lower(): value for key, value in known.items()}
    if wanted not in by_lower:
        close = difflib.get_close_matches(wanted, by_lower, n=1, cutoff=0.4)
        hint = f"did you mean --model {close[0]}?" if close else "see `gen-repo list`"
        raise Refused(
            error("unknown-model", f"model {name!r} is not known; known are {', '.join(known)}", "--model", hint),
            exit_code=EXIT_USAGE,
        )
    spec, variant = by_lower[wanted]
    if variant.refused:
        usable = ", ".join(v.name for v in spec.variants if not v.refused)
        raise Refused(error("refused-variant", f"{variant.name}: {variant.refused}", "--model", f"use one of {usable}"))
    return spec, variant
