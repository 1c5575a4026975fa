"""The torch `tensorrt_llm` step on a real Triton, against transformers on the same tiny checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from tests.server.torch_llm import (
    HIDDEN,
    MAX_SEQ,
    PROMPTS,
    UNARY,
    VOCAB,
    answer,
    ask,
    hf_greedy,
    inputs,
    served,
    words,
    write_checkpoint,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny_llama")
    write_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def hf(checkpoint: Path) -> Any:
    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float16).eval()
    model.generation_config = transformers.GenerationConfig()
    return model


@pytest.fixture(scope="module")
def client(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpcclient.InferenceServerClient]:
    with served(checkpoint, tmp_path_factory.mktemp("repository")) as connection:
        yield connection


# --- greedy ---


def test_greedy_equals_hf(client: Any, hf: Any) -> None:
    expected = [hf_greedy(hf, prompt) for prompt in PROMPTS]
    assert [answer(client, prompt) for prompt in PROMPTS] == expected
    assert len({tuple(own) for own in expected}) > 18 and all(len(set(own)) > 2 for own in expected)


def test_table_rows_are_addressed_by_index(client: Any, hf: Any) -> None:
    """Rows out of order, repeated and skipped."""
    rows = torch.randn((5, HIDDEN), generator=torch.Generator().manual_seed(1)).half()
    order = [4, 0, 0, 3]
    prompt = [7, *(VOCAB + row for row in order), 9, VOCAB + 1]
    embeds = hf.get_input_embeddings()(torch.tensor([[7, 0, 0, 0, 0, 9, 0]]))
    embeds[0, [1, 2, 3, 4, 6]] = rows[[*order, 1]]
    with torch.inference_mode():
        expected = hf.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(1, 7, dtype=torch.long),
            max_new_tokens=12,
            pad_token_id=0,
        )
    assert answer(client, prompt, prompt_embedding_table=rows[None].numpy()) == expected[0].tolist()
    shifted = [7, *(VOCAB + row for row in [0, 4, 0, 3]), 9, VOCAB + 1]
    assert answer(client, shifted, prompt_embedding_table=rows[None].numpy()) != expected[0].tolist()


def test_right_padding_is_no_part_of_the_prompt(client: Any) -> None:
    padded = [*PROMPTS[3], 5, 5, 5]
    assert answer(client, padded, input_lengths=len(PROMPTS[3])) == answer(client, PROMPTS[3])


def test_prompt_is_in_the_output_only_when_asked_for(client: Any) -> None:
    alone = answer(client, PROMPTS[0])
    assert answer(client, PROMPTS[0], exclude_input_in_output=False) == PROMPTS[0] + alone


def test_answers_fit_into_the_longest_sequence(client: Any) -> None:
    assert len(answer(client, [5] * (MAX_SEQ - 3), 12)) == 3
    with pytest.raises(InferenceServerException, match=f"{MAX_SEQ} tokens.*{MAX_SEQ}"):
        answer(client, [5] * MAX_SEQ)


# --- ends and words ---


def test_end_id_ends_the_answer_and_is_no_part_of_it(client: Any, hf: Any) -> None:
    full = answer(client, PROMPTS[1], 20)
    end = full[7]
    assert answer(client, PROMPTS[1], 20, end_id=end) == full[: full.index(end)]
    assert hf_greedy(hf, PROMPTS[1], 20, eos_token_id=end) == full[: full.index(end) + 1]
    assert answer(client, PROMPTS[1], 20, end_id=-1) == full


def test_min_tokens_equals_hf(client: Any, hf: Any) -> None:
    lengths = set()
    for position, least in [(0, 1), (0, 3), (2, 9), (3, 3), (3, 4), (5, 1)]:
        end = answer(client, PROMPTS[1], 20)[position]
        expected = hf_greedy(hf, PROMPTS[1], 20, eos_token_id=end, min_new_tokens=least)
        got = answer(client, PROMPTS[1], 20, end_id=end, min_length=least)
        assert got == [token for token in expected if token != end]
        lengths.add(len(got) - least)
    assert min(lengths) == 0 and max(lengths) > 0


def test_stop_words_end_the_answer_and_stay_in_it(client: Any) -> None:
    full = answer(client, PROMPTS[2], 20)
    stop = full[5:7]
    first = next(i for i in range(19) if full[i : i + 2] == stop)
    assert answer(client, PROMPTS[2], 20, stop_words_list=words([1, 2, 1], stop)) == full[: first + 2]
    assert answer(client, PROMPTS[2], 20, stop_words_list=np.zeros((1, 2, 0))) == full


def test_bad_words_equal_hf(client: Any, hf: Any) -> None:
    full = answer(client, PROMPTS[2], 20)
    bad = [[full[0]], full[3:5], [PROMPTS[2][-1], full[1]]]
    assert answer(client, PROMPTS[2], 20, bad_words_list=words(*bad)) == hf_greedy(
        hf, PROMPTS[2], 20, bad_words_ids=bad
    )


def test_malformed_word_lists_are_refused(client: Any) -> None:
    for name in ("stop_words_list", "bad_words_list"):
        with pytest.raises(InferenceServerException, match=f"{name}.*out-of-bound offsets"):
            ask(client, PROMPTS[0], 12, **{name: [[[5, 6], [3, -1]]]})


# --- sampling ---


def test_sampling_is_reproduced_by_its_seed(client: Any) -> None:
    sampled = [answer(client, PROMPTS[4], random_seed=seed, runtime_top_k=50, temperature=3.0) for seed in (1, 1, 2, 3)]
    assert sampled[0] == sampled[1]
    assert len({tuple(own) for own in sampled}) == 3


def test_top_k_and_top_p_bound_the_choice(client: Any) -> None:
    greedy = answer(client, PROMPTS[4])
    assert answer(client, PROMPTS[4], runtime_top_k=1, temperature=9.0) == greedy
    assert answer(client, PROMPTS[4], runtime_top_p=1e-6, temperature=9.0) == greedy
    assert answer(client, PROMPTS[4], temperature=9.0, runtime_top_p=0.0) == greedy
    logits = ask(client, PROMPTS[4], 1, return_generation_logits=True).as_numpy("generation_logits")[0, 0, 0]
    best = set(np.argsort(-logits)[:3].tolist())
    drawn = {answer(client, PROMPTS[4], 1, runtime_top_k=3, temperature=100.0, random_seed=s)[0] for s in range(1, 25)}
    assert drawn == best


def test_repetition_penalty_equals_hf_over_prompt_and_answer(client: Any, hf: Any) -> None:
    for prompt in PROMPTS[:5]:
        penalised = answer(client, prompt, 20, repetition_penalty=1.7)
        assert penalised == hf_greedy(hf, prompt, 20, repetition_penalty=1.7)
        assert penalised != answer(client, prompt, 20)


@pytest.mark.parametrize(("presence", "frequency"), [(2.5, 0.0), (0.0, 1.5), (-6.0, 2.0)])
def test_presence_and_frequency_penalties(client: Any, hf: Any, presence: float, frequency: float) -> None:
    """A loop of plain forward calls: counts over prompt and answer, subtracted from the raw logits."""
    prompt = [*PROMPTS[6], *PROMPTS[6][:4]]
    history = list(prompt)
    for _ in range(20):
        with torch.inference_mode():
            logits = hf(torch.tensor([history])).logits[0, -1].float()
        counts = torch.bincount(torch.tensor(history), minlength=VOCAB)
        history.append(int((logits - presence * (counts > 0) - frequency * counts).argmax()))
    got = answer(client, prompt, 20, presence_penalty=presence, frequency_penalty=frequency)
    assert got == history[len(prompt) :]
    assert got != answer(client, prompt, 20)


def test_embedding_bias(client: Any) -> None:
    bias = np.zeros((1, VOCAB), dtype=np.float32)
    bias[0, 42] = 1e4
    assert answer(client, PROMPTS[0], embedding_bias=bias) == [42] * 12
    assert answer(client, PROMPTS[0], embedding_bias=np.zeros((1, 0))) == answer(client, PROMPTS[0])


def test_log_probs_and_logits_are_the_models(client: Any, hf: Any) -> None:
    prompt = PROMPTS[8]
    result = ask(client, prompt, return_log_probs=True, return_generation_logits=True, return_context_logits=True)
    tokens = result.as_numpy("output_ids")[0, 0].tolist()
    with torch.inference_mode():
        logits = hf(torch.tensor([prompt + tokens])).logits[0].float()
    context, generation = result.as_numpy("context_logits"), result.as_numpy("generation_logits")
    assert context.shape == (1, len(prompt), VOCAB) and generation.shape == (1, 1, 12, VOCAB)
    np.testing.assert_allclose(context[0], logits[: len(prompt)], atol=0.05)
    np.testing.assert_allclose(generation[0, 0], logits[len(prompt) - 1 : -1], atol=0.05)
    expected = torch.log_softmax(torch.tensor(generation[0, 0]), dim=-1)[range(12), tokens]
    np.testing.assert_allclose(result.as_numpy("output_log_probs")[0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(result.as_numpy("cum_log_probs")[0, 0], expected.sum(), rtol=1e-5)


def test_optional_outputs_are_left_out_unless_asked_for(client: Any) -> None:
    names = {output.name for output in ask(client, PROMPTS[0]).get_response().outputs}
    assert names == {"output_ids", "sequence_length"}


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_beams_equal_hf(client: Any, hf: Any, length_penalty: float) -> None:
    for prompt in PROMPTS[:3]:
        ids = torch.tensor([prompt])
        end = answer(client, prompt)[4]
        with torch.inference_mode():
            found = hf.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=12,
                num_beams=3,
                num_return_sequences=3,
                length_penalty=length_penalty,
                early_stopping=True,
                eos_token_id=end,
                pad_token_id=0,
                return_dict_in_generate=True,
                output_scores=True,
            )
        result = ask(client, prompt, beam_width=3, end_id=end, len_penalty=length_penalty, return_log_probs=True)
        beams, lengths = result.as_numpy("output_ids")[0], result.as_numpy("sequence_length")[0]
        for beam in range(3):
            expected = found.sequences[beam, len(prompt) :].tolist()
            expected = expected[: expected.index(end)] if end in expected else expected
            assert beams[beam, : lengths[beam]].tolist() == expected
            assert (beams[beam, lengths[beam] :] == -1).all()
        if length_penalty == 0.0:
            np.testing.assert_allclose(result.as_numpy("cum_log_probs")[0], found.sequences_scores, rtol=1e-4)


# --- refusals ---


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"draft_input_ids": [[5, 6]]}, "draft_input_ids is not supported"),
        ({"lora_task_id": 3}, "lora_task_id is not supported"),
        ({"num_return_sequences": 2}, "num_return_sequences is not supported"),
        ({"runtime_top_p_decay": 0.5}, "runtime_top_p_decay is not supported"),
        ({"streaming": True}, "Streaming is only supported if model is deployed using decoupled mode"),
        ({"embedding_bias": np.zeros((1, 95))}, "embedding_bias has 95 entries; the vocabulary has 96"),
        ({"end_id": VOCAB}, "end_id 96 is outside the vocabulary of 96"),
        ({"request_output_len": 0}, "request_output_len is 0"),
        ({"input_lengths": 99}, "input_lengths is 99; input_ids holds 5"),
        ({"input_ids": [[5, VOCAB, 6]], "input_lengths": 3}, "row 0 of the prompt table, which has 0 rows"),
        (
            {
                "input_ids": [[5, VOCAB + 2]],
                "input_lengths": 2,
                "prompt_embedding_table": np.zeros((1, 2, HIDDEN)),
            },
            "row 2 of the prompt table, which has 2 rows",
        ),
        ({"input_ids": [[5, -1]], "input_lengths": 2}, "holds -1: ids run from 0 to 95"),
        (
            {"prompt_embedding_table": np.zeros((1, 2, 7))},
            r"shape \[1, 2, 7\]; this model takes \[1, rows, 64\]",
        ),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"beam_width": 0}, "beam_width is 0"),
        ({"beam_width": 9}, "beam_width is 9, --runtime torch takes 8 at most: ask for fewer beams"),
    ],
)
def test_refusals_name_the_tensor(client: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InferenceServerException, match=message):
        ask(client, PROMPTS[0], **more)


def test_what_the_backend_ignores_is_accepted(client: Any) -> None:
    accepted: dict[str, Any] = {
        "num_return_sequences": 1,
        "prompt_vocab_size": 7,
        "prompt_table_extra_ids": [[0] * 5],
    }
    assert answer(client, PROMPTS[0], **accepted) == answer(client, PROMPTS[0])


def test_batches_need_the_decoupled_policy(client: Any) -> None:
    with pytest.raises(InferenceServerException, match=r"Batch size > 1 requires .* decoupled"):
        ask(client, [PROMPTS[0], PROMPTS[0]])


def test_both_main_outputs_must_be_requested(client: Any) -> None:
    requested = [grpcclient.InferRequestedOutput("output_ids")]
    with pytest.raises(InferenceServerException, match="sequence_length tensor must be present"):
        client.infer(UNARY, inputs(PROMPTS[0]), outputs=requested)
