"""The checkpoint's tokenizer as one tokenizer.json, as transformers itself would tokenize.

Hugging Face is the truth: `AutoTokenizer` of the installed transformers is loaded once, its backend is saved, and
serving needs only the `tokenizers` package. That takes seconds, so the result is cached by the content of the files.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from generator.facts import jsonfile, tokenizer_json
from generator.findings import EXIT_ENVIRONMENT, EXIT_TRUST, Finding, Refused, error, warning

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "merges.txt",
    "config.json",
)
CACHE_VERSION = 2

# What transformers replaces in decoded text, in this order, where a tokenizer_config.json asks for
# clean_up_tokenization_spaces (PreTrainedTokenizerBase.clean_up_tokenization; since 5.0 not for BPE).
CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
CLEAN_UP_PROBE = "a . b ? c ! d , e"

# Where converted tokenizers are known to part ways: white space, special tokens in running text, scripts, bytes.
PROBES = (
    "Hello, world!",
    " leading space",
    "two  spaces   three",
    "trailing ",
    "tabs\tand\nnewlines\n\n",
    "USER: <image>\nWhat is this? ASSISTANT:",
    "</s> in the text <s>",
    "don't can't we're",
    "1234567890 3.14159 1,000",
    "naïve café Ünïcödé",
    "日本語のテキスト",
    "emoji 🙂👩‍👩‍👧",
    "\u2581under\u2581score",
    "https://example.org/a?b=c&d=e#f",
    "مرحبا بالعالم",
    "Привет, мир",
    "CamelCaseAnd_snake_case",
    "a\u00a0b\u200bc",
)


@dataclass(frozen=True)
class TokenizerFacts:
    """A tokenizer ready to be written: `content` is its whole file, here a tokenizer.json.

    `replacements`: pairs (old, new), applied one after the other to decoded text.
    """

    content: bytes
    bos: int | None
    end: int
    pad: int
    image: int | None
    vocabulary: int
    source: str
    replacements: tuple[tuple[str, str], ...] = ()

    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of a text without the tokens that the tokenizer puts around it."""
        ids: list[int] = self._loaded().encode(text, add_special_tokens=False).ids
        return ids

    def id_of(self, token: str) -> int:
        """The id of one token by its name.

        Raises:
            Refused: the tokenizer has no such token.
        """
        found = self.find(token)
        if found is None:
            what = f"the tokenizer has no token {token!r}, which this model's prompts need"
            remedy = "give the tokenizer of this checkpoint with --tokenizer-dir"
            raise Refused(error("tokenizer-token", what, self.source, remedy))
        return found

    def find(self, token: str) -> int | None:
        """The id of one token by its name, None when there is no such token."""
        found: int | None = self._loaded().token_to_id(token)
        return found

    def respelled(self, spelled: Mapping[str, str]) -> TokenizerFacts:
        """The same tokenizer, in whose texts these tokens are what they stand for."""
        return replace(self, replacements=(*self.replacements, *spelled.items()))

    def _loaded(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.content.decode())


def read(folder: Path, how: Literal["hf", "checkpoint"], image_mark: str) -> tuple[TokenizerFacts, list[Finding]]:
    """Reads the tokenizer in `folder`.

    Args:
        how: "hf" loads it with the installed transformers, "checkpoint" takes the checkpoint's tokenizer.json as is.
        image_mark: looked up in the vocabulary.

    Returns:
        The facts, and a warning with an example where the two ways tokenize differently.

    Raises:
        Refused: no tokenizer there, it cannot be loaded, or transformers is needed and missing.
    """
    if not any((folder / name).is_file() for name in FILES if name != "config.json"):
        what = "no tokenizer files (tokenizer.json, tokenizer.model, ...)"
        raise Refused(error("tokenizer-missing", what, folder, "point --hf-model-dir or --tokenizer-dir at it"))
    if how == "checkpoint":
        return _from_file(folder, image_mark), []
    cached = _cache_file(folder)
    state = _load_cache(cached)
    if state is None:
        state = _convert(folder)
        _save_cache(cached, state)
    facts = TokenizerFacts(
        content=state["json"].encode(),
        bos=state["bos"],
        end=state["end"],
        pad=state["pad"],
        image=state["tokens"].get(image_mark),
        vocabulary=state["vocabulary"],
        source=f"transformers {state['transformers']}",
        replacements=CLEAN_UP if state["cleans_up"] else (),
    )
    example = state["differs"]
    findings = []
    if example:
        text, hf, own = example
        what = (
            f"transformers {state['transformers']} and the checkpoint's own tokenizer.json disagree, for example "
            f"on {text!r}: {hf} and {own}; the former is used"
        )
        remedy = "choose with --tokenizer hf|checkpoint the one that the model was trained with"
        findings.append(warning("tokenizer-differs", what, folder / "tokenizer.json", remedy))
    return facts, findings


def _transformers_version() -> str:
    try:
        return metadata.version("transformers")
    except metadata.PackageNotFoundError:
        found = error(
            "transformers-missing",
            "transformers is not installed, and it decides how the checkpoint's text is tokenized",
            "--tokenizer hf",
            "pip install 'gen-repo[hf]', or pass --tokenizer checkpoint to trust the checkpoint's tokenizer.json",
        )
        raise Refused(found, exit_code=EXIT_ENVIRONMENT) from None


def _cache_file(folder: Path) -> Path:
    digest = hashlib.sha256(f"{CACHE_VERSION} {_transformers_version()}".encode())
    for name in FILES:
        path = folder / name
        if path.is_file():
            digest.update(f"\0{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "gen-repo" / "tokenizers" / f"{digest.hexdigest()}.json"


def _load_cache(path: Path) -> dict[str, Any] | None:
    try:
        state = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) and "json" in state else None


def _save_cache(path: Path, state: dict[str, Any]) -> None:
    """Best effort: a cache that cannot be written only costs the next run its seconds."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as handle:
            json.dump(state, handle, ensure_ascii=False)
        Path(handle.name).replace(path)
    except OSError:
        return


def _convert(folder: Path) -> dict[str, Any]:
    version = _transformers_version()
    own = folder / "tokenizer.json"
    if own.is_file():
        with jsonfile.reading(own, own.name):
            tokenizer_json.check_merges(jsonfile.read(own, own.name, "copy the file again"), own)
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as problem:  # transformers raises whatever its files make it raise; a panic is no Exception
        if "trust_remote_code" in str(problem):
            what = "the tokenizer is code of the checkpoint (auto_map in its configs), which is never run"
            remedy = "give a folder with a tokenizer.json by --tokenizer-dir, or pass --tokenizer checkpoint"
            raise Refused(error("remote-code", what, folder, remedy), exit_code=EXIT_TRUST) from None
        first = str(problem).strip().splitlines()[:1] or [type(problem).__name__]
        what = f"transformers {version} cannot load the tokenizer: {first[0]}"
        remedy = "give a complete tokenizer folder with --tokenizer-dir, or pass --tokenizer checkpoint"
        raise Refused(error("tokenizer-unreadable", what, folder, remedy)) from None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        what = f"transformers {version} has only a slow tokenizer for it, which cannot be saved as tokenizer.json"
        raise Refused(error("tokenizer-slow", what, folder, "give a folder with a tokenizer.json by --tokenizer-dir"))
    if tokenizer.eos_token_id is None:
        what = "the tokenizer states no end-of-sequence token"
        raise Refused(error("tokenizer-no-eos", what, folder, "add eos_token to tokenizer_config.json"))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.all_special_ids[0]
    return {
        "json": backend.to_str(),
        "bos": tokenizer.bos_token_id,
        "end": tokenizer.eos_token_id,
        "pad": pad,
        "tokens": {str(token): int(i) for token, i in tokenizer.get_added_vocab().items()},
        "vocabulary": len(tokenizer),
        "transformers": version,
        "differs": _difference(tokenizer, own),
        "cleans_up": _cleans_up(tokenizer, backend),
    }


def _cleans_up(tokenizer: Any, backend: Any) -> bool:
    """Whether this transformers cleans up what this tokenizer decodes, which it decides by release and kind."""
    ids = tokenizer(CLEAN_UP_PROBE, add_special_tokens=False)["input_ids"]
    text = backend.decode(ids, skip_special_tokens=False)
    cleaned = text
    for old, new in CLEAN_UP:
        cleaned = cleaned.replace(old, new)
    return bool(text != cleaned == tokenizer.decode(ids))


def _difference(tokenizer: Any, own_file: Path) -> tuple[str, list[int], list[int]] | None:
    """The first probe that the checkpoint's own tokenizer.json tokenizes differently from transformers."""
    if not own_file.is_file():
        return None
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(str(own_file))
    own.no_truncation()
    own.no_padding()
    for probe in PROBES:
        ours, theirs = tokenizer(probe)["input_ids"], own.encode(probe).ids
        if ours != theirs:
            return probe, ours, theirs
    return None


def _from_file(folder: Path, image_mark: str) -> TokenizerFacts:
    """The checkpoint's tokenizer.json as it is, special ids from tokenizer_config.json."""
    path = folder / "tokenizer.json"
    content = jsonfile.read(path, "tokenizer.json", "use --tokenizer hf, which also reads tokenizer.model")
    config = jsonfile.read(folder / "tokenizer_config.json", "tokenizer_config.json", "copy it beside tokenizer.json")
    with jsonfile.reading(path, "tokenizer.json or tokenizer_config.json"):
        facts = _stated(path, content, config, image_mark)
    tokenizer_json.check(content, facts.content.decode(), path)
    return facts


def _stated(path: Path, content: dict[str, Any], config: dict[str, Any], image_mark: str) -> TokenizerFacts:
    ids = {entry["content"]: entry["id"] for entry in content.get("added_tokens", [])}
    vocabulary, kind = (content.get("model", {}).get(key, {}) for key in ("vocab", "type"))
    size = max([len(vocabulary), *(i + 1 for i in ids.values())])

    def special(key: str) -> int | None:
        value = config.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        return ids.get(value) if isinstance(value, str) else None

    end = special("eos_token")
    if end is None:
        what = "tokenizer_config.json names no eos_token that tokenizer.json knows"
        raise Refused(error("tokenizer-no-eos", what, path, "use --tokenizer hf"))
    pad = special("pad_token")
    if pad is None:
        pad = special("unk_token")
    return TokenizerFacts(
        content=path.read_bytes(),
        bos=special("bos_token"),
        end=end,
        pad=end if pad is None else pad,
        image=ids.get(image_mark),
        vocabulary=size,
        source="the checkpoint's tokenizer.json",
        replacements=CLEAN_UP if config.get("clean_up_tokenization_spaces") and kind != "BPE" else (),
    )
