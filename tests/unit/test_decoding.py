"""The torch LLM step's decoder on the tiny checkpoints: its logits are transformers' own, bit by bit."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from generator.oracle import LlavaOracle, VilaOracle
from tests import checkpoints

ROOT = Path(__file__).parents[2]
for folder in ("templates/shared", "templates/torch/tensorrt_llm/1", "tests/doubles"):
    if str(ROOT / folder) not in sys.path:
        sys.path.insert(0, str(ROOT / folder))

import llm_loading  # noqa: E402
from decoding import Decoder  # noqa: E402
from llm_request import LlmRequest  # noqa: E402
from sampling import Sampling  # noqa: E402
from table_prompt import PromptForm  # noqa: E402

CASES = {
    "llava": (LlavaOracle, ""),
    "vila": (VilaOracle, "llm"),
}
TEXTS = ["What is shown?", "Which city is this? Answer:", "Describe the picture in one sentence."]
TOKENS = 10


def never() -> bool:
    return False


def request(prompt: list[int], table: torch.Tensor | None, **changes: Any) -> LlmRequest:
    plain = LlmRequest(
        prompt=prompt,
        history=prompt,
        table=table,
        features=None,
        max_tokens=TOKENS,
        end_id=None,
        pad_id=0,
        stop_words=[],
        bad_words=[],
        bias=None,
        sampling=Sampling(),
        beam_width=1,
        length_penalty=0.0,
        early_stopping=True,
        log_probs=False,
        context_logits=False,
        generation_logits=True,
        exclude_input=True,
        streaming=False,
    )
    return replace(plain, **changes)


class Case:
    """One checkpoint loaded twice: by its oracle, and by the step."""

    def __init__(self, name: str) -> None:
        oracle, subfolder = CASES[name]
        checkpoint = checkpoints.cached(name)
        self.oracle: Any = oracle(checkpoint)
        weights = self.oracle.model.get_input_embeddings().weight
        self.settings = {
            "checkpoint": str(checkpoint),
            "subfolder": subfolder,
            "attribute": "",
            "module": "hf_llm",
            "dtype": "float16",
            "vocab_size": weights.shape[0],
            "hidden_size": weights.shape[1],
        }
        self.model = llm_loading.load(self.settings, torch.device("cpu"))
        form = PromptForm(self.model, self.settings, torch.device("cpu"))
        self.decoder = Decoder(self.model, form, weights.shape[0], torch.device("cpu"))

    def prompt(self, text: str, images: int) -> tuple[list[int], torch.Tensor | None, dict[str, Any]]:
        """The step's prompt and table, and the same as inputs of transformers' generate()."""
        pictures = list(np.random.default_rng(len(text)).integers(0, 256, (images, 40, 60, 3), dtype=np.uint8))
        ids = torch.tensor(self.oracle.ids(text, pictures))
        fake = ids == self.oracle.image_id
        embeds = self.oracle.model.get_input_embeddings()(torch.where(fake, 0, ids))
        table = None
        if images:
            rows = torch.from_numpy(self.oracle.rows(self.oracle.pixels(pictures)))
            table = rows.flatten(0, 1)
            embeds[fake] = table
        prompt = torch.where(fake, self.settings["vocab_size"] + fake.cumsum(0) - 1, ids)
        mask = torch.ones((1, len(ids)), dtype=torch.long)
        return prompt.tolist(), table, {"inputs_embeds": embeds[None], "attention_mask": mask}

    def hf(self, inputs: dict[str, Any], **options: Any) -> Any:
        config = transformers.GenerationConfig(
            max_new_tokens=TOKENS,
            do_sample=False,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
            output_scores=True,
            **options,
        )
        self.oracle.model.generation_config = config
        with torch.inference_mode():
            return self.oracle.model.generate(**inputs, generation_config=config)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.mark.parametrize("images", [0, 1, 2])
def test_logits_equal_hf_bit_by_bit(case: Case, images: int) -> None:
    for text in TEXTS:
        prompt, table, inputs = case.prompt(text, images)
        tokens = list(case.decoder.tokens(request(prompt, table), never))
        expected = case.hf(inputs)
        assert [token.id for token in tokens] == expected.sequences[0].tolist()
        for token, logits in zip(tokens, expected.logits, strict=True):
            assert token.logits is not None
            assert torch.equal(token.logits, logits[0].float())
        assert tokens[-1].last and not any(token.last for token in tokens[:-1])


def test_beams_equal_hf_with_an_image(case: Case) -> None:
    prompt, table, inputs = case.prompt(TEXTS[0], 1)
    beams = case.decoder.beams(request(prompt, table, beam_width=3), never)
    expected = case.hf(inputs, num_beams=3, num_return_sequences=3, length_penalty=0.0, early_stopping=True)
    assert [[token.id for token in beam] for beam in beams] == expected.sequences.tolist()
    for own, sources in enumerate(expected.beam_indices.tolist()):
        for step, token in enumerate(beams[own]):
            assert token.logits is not None
            assert torch.equal(token.logits, expected.logits[step][sources[step]].float())


def test_beams_end_at_stop_words(case: Case) -> None:
    prompt, table, _ = case.prompt(TEXTS[1], 1)
    row = request(prompt, table, beam_width=2)
    best = [token.id for token in case.decoder.beams(row, never)[0]]
    stopped = case.decoder.beams(replace(row, stop_words=[best[3:5]]), never)
    answers = [[token.id for token in beam] for beam in stopped]
    assert any(answer[-2:] == best[3:5] and len(answer) < TOKENS for answer in answers)


def test_a_cancelled_row_ends_without_a_last_token(case: Case) -> None:
    prompt, table, _ = case.prompt(TEXTS[0], 0)
    answers = iter([False, False, True])
    tokens = list(case.decoder.tokens(request(prompt, table), lambda: next(answers)))
    assert len(tokens) == 2 and not tokens[-1].last
    assert len(case.decoder.beams(request(prompt, table, beam_width=2), lambda: True)[0]) == 1


def test_the_vision_tower_is_dropped(case: Case) -> None:
    language = sum(weight.numel() for name, weight in case.model.named_parameters() if "vision" not in name)
    assert sum(weight.numel() for weight in case.model.parameters()) == language
    assert "projector" not in " ".join(name for name, _ in case.model.named_parameters())


def test_another_vocabulary_is_refused_at_load(case: Case) -> None:
    with pytest.raises(ValueError, match=r"vocab_size .* this repository was generated for 7.*generate"):
        llm_loading.load({**case.settings, "vocab_size": 7}, torch.device("cpu"))
