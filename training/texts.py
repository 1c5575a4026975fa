"""A small tokenizer of the models' own class, and prompts as the models are asked: Llama's BPE with byte fallback."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from training import questions
from training.scenes import scene

PIECES = 640
SCENES_TO_READ = 4000
IMAGE = "<image>"
VILA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
"""The system prompt of vicuna_v1, which every VILA-1.5 with a Vicuna has seen."""


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def corpus() -> Iterator[str]:
    """What the tokenizer learns its words from: prompts with questions and answers, seeded."""
    rng = random.Random("corpus")
    scenes = [scene(seed) for seed in range(SCENES_TO_READ)]
    for first, second in zip(scenes, reversed(scenes), strict=True):
        for question, answer in (questions.ask(first, rng), questions.ask_pair(first, second, rng)):
            yield f"{VILA_SYSTEM}USER: {question} ASSISTANT: {answer}"


@cache
def sentencepiece_model() -> bytes:
    """A `tokenizer.model`: `<unk>` 0, `<s>` 1, `</s>` 2, 256 bytes, then the pieces of our words."""
    import sentencepiece  # type: ignore[import-untyped]

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus(),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    return model.getvalue()


def write_tokenizer(folder: Path, added: tuple[str, ...] = (), **more: Any) -> None:
    """Write the files of a Llama-2 tokenizer; `added` tokens follow the pieces, the last one is for padding."""
    from transformers import AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": (added or ("<unk>",))[-1], "unk_token": "<unk>"}
    numbered = {**dict(enumerate(("<unk>", "<s>", "</s>"))), **dict(enumerate(added, start=PIECES))}
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": {str(number): _special(token) for number, token in numbered.items()},
            "clean_up_tokenization_spaces": False,
            "legacy": False,
            "model_max_length": 2048,
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
            **special,
            **more,
        },
    )
    write_json(folder / "special_tokens_map.json", {name: _special(token) for name, token in special.items()})
    AutoTokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))


def _special(token: str) -> dict[str, object]:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": token, **flags, "special": True}


class Prompts:
    """Token ids of questions as the model is asked, with the ids of their answers.

    `image_id` is None where a prompt is cut at its images and each part tokenized alone, as VILA does.
    """

    def __init__(self, folder: Path, system: str, image_id: int | None) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._system, self._image_id = system, image_id
        self._known: dict[tuple[str, str | None, int], list[list[int]]] = {}

    def before(self, images: int) -> list[list[int]]:
        """The ids before each of the images."""
        return self.parts("", None, images)[:-1]

    def after(self, question: str, answer: str, images: int) -> tuple[list[int], int]:
        """The ids behind the last image, `</s>` at their end, and how many of them are the answer's."""
        asked = self.parts(question, None, images)[-1]
        whole = self.parts(question, answer, images)[-1]
        if whole[: len(asked)] != asked:
            raise ValueError(f"the prompt of {question!r} is tokenized otherwise with its answer {answer!r} behind it")
        return [*whole, 2], len(whole) + 1 - len(asked)

    def parts(self, question: str, answer: str | None, images: int) -> list[list[int]]:
        """The ids before, between and behind the images, of a prompt that goes on with `answer` if there is one."""
        key = (question, answer, images)
        if key not in self._known:
            marks = f"{IMAGE}\n" * images
            prompt = f"{self._system}USER: {marks}{question} ASSISTANT:"
            prompt += "" if answer is None else f" {answer}"
            self._known[key] = self._at_marks(prompt) if self._image_id is None else self._at_tokens(prompt)
        return self._known[key]

    def _at_marks(self, prompt: str) -> list[list[int]]:
        first, *others = (self.tokenizer(part).input_ids for part in prompt.split(IMAGE))
        return [first, *(ids[1:] for ids in others)]  # without the begin token that each part gets

    def _at_tokens(self, prompt: str) -> list[list[int]]:
        parts: list[list[int]] = [[]]
        for token in self.tokenizer(prompt).input_ids:
            if token == self._image_id:
                parts.append([])
            else:
                parts[-1].append(token)
        return parts
