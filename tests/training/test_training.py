"""What the demo's models are trained on, and that training sees what serving sees."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from generator.oracle import LlavaOracle, VilaOracle
from training import questions, split
from training.batches import IGNORED, Pictures, Questions, as_it_is, pack
from training.networks import NETWORKS, SIDE
from training.scenes import COLOURS, SHAPES, draw, png, scene
from training.texts import PIECES, Prompts

ORACLES: dict[str, Any] = {"vila": VilaOracle, "llava": LlavaOracle}
SCENES = [scene(seed) for seed in range(200)]


def test_a_scene_is_what_its_picture_shows() -> None:
    """Around every thing's centre the picture has its colour; as many things, as many areas of colour."""
    for one in SCENES[:50]:
        pixels = np.asarray(draw(one))
        for thing in one.things:
            x, y, reach = (round(value * one.side) for value in (thing.x, thing.y, thing.radius / 2))
            around = pixels[y - reach : y + reach, x - reach : x + reach].reshape(-1, 3)
            assert (around == COLOURS[thing.colour]).all(-1).any(), thing
            assert len({t.cell for t in one.things}) == len(one.things)
        blank = (pixels == one.background).all(-1).mean()
        assert blank == pytest.approx(1 - sum(np.pi * t.radius**2 * 0.6 for t in one.things), abs=0.2)


def test_equal_seeds_give_equal_pictures() -> None:
    assert draw(scene(7)).tobytes() == draw(scene(7)).tobytes() != draw(scene(8)).tobytes()


def test_held_out_scenes_look_like_no_other() -> None:
    training = {s.signature for s in split.training(3000)}
    held = [s.signature for s in (*split.test(), *split.validation())]
    assert len(set(held)) == len(held) and len(training) == 3000
    assert training.isdisjoint(held)


def test_answers_are_right() -> None:
    """Answers recomputed from the words of the question alone."""
    rng = random.Random(0)
    kinds = set()
    for one in SCENES:
        question, answer = questions.ask(one, rng)
        words = question.rstrip("?.").split()
        shapes = [s for s in SHAPES if s in words or s + "s" in words]
        colours = [c for c in COLOURS if c in words]
        fitting = [
            t
            for t in one.things
            if (not shapes or t.kind in shapes)
            and (not colours or t.colour in colours)
            and ("digit" not in words or t.is_digit)
        ]
        kinds.add(words[0])
        if answer.isdigit() and words[0] in ("How", "Count"):
            assert int(answer) == len(fitting)
        elif answer in ("yes", "no"):
            assert (answer == "yes") == bool(fitting)
        elif answer in COLOURS:
            assert [t.colour for t in fitting] == [answer]
        elif answer.split()[0] in ("top", "bottom"):
            assert [t.place for t in fitting] == [answer]
    assert len(kinds) >= 9


@pytest.mark.parametrize("name", NETWORKS)
def test_training_sees_what_transformers_sees(name: str, tmp_path: Path) -> None:
    """Pixels, rows, ids and logits of the training's own path equal those of the written checkpoint's oracle."""
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    for weight in network.parameters():
        weight.data = weight.data.half().float()
    network.write(tmp_path)
    oracle = ORACLES[name](tmp_path)
    oracle.model.float()
    if name == "vila":
        oracle.tower.float()
        oracle.projector = {key: weight.float() for key, weight in oracle.projector.items()}
    pictures = Pictures(SCENES[:2], SIDE, network.grid, network.columns_first)
    images = [png(one) for one in SCENES[:2]]
    pixels = pictures.pixels([0, 1], network.mean, network.std)
    assert np.array_equal(pixels.half().numpy(), oracle.pixels(images))
    with torch.inference_mode():
        rows = network.rows(pixels)
    assert torch.allclose(rows, torch.from_numpy(oracle.rows(pixels.numpy())), atol=1e-5)

    prompts = Prompts(tmp_path / network.tokenizer, network.system, network.image_id)
    asked = [[("How many stars are there?", "2"), ("Describe the picture.", "a red star.")], [("Read the digit.", "7")]]
    packed = pack(asked, prompts, network.grid**2)
    embedded = network.decoder.embed_tokens(packed.ids)
    embedded = embedded.scatter(1, packed.rows[:, :, None].expand(-1, -1, rows.shape[-1]), rows)
    with torch.inference_mode():
        hidden = network.decoder(
            inputs_embeds=embedded, attention_mask=packed.visible(), position_ids=packed.positions
        ).last_hidden_state
        logits = network.head(hidden)
    start = int((packed.positions[0].diff() < 0).nonzero()[0]) + 1  # the second question of the first sequence
    for question, answer in asked[0]:
        tokens, answered = prompts.after(question, answer, 1)
        begin = start if question == asked[0][1][0] else start - len(tokens)
        last = begin + len(tokens) - answered - 1  # the position that gives the answer's first token
        ids = torch.tensor([oracle.ids(question, images[:1])])
        shown = ids == oracle.image_id
        assert ids[0, -(len(tokens) - answered) :].tolist() == packed.ids[0, begin : last + 1].tolist()
        assert int(shown.sum()) == network.grid**2 and packed.rows[0].tolist() == shown[0].nonzero().flatten().tolist()
        table = oracle.model.get_input_embeddings()(ids.masked_fill(shown, 0))
        table[shown] = rows[0]
        with torch.inference_mode():
            expected = oracle.model(inputs_embeds=table).logits[0, -1]
        assert torch.allclose(logits[0, last], expected, atol=1e-4), question
        assert packed.targets[0, last : last + answered].tolist() == tokens[-answered:]
    answers = [prompts.after(question, answer, 1)[1] for pairs in asked for question, answer in pairs]
    assert int((packed.targets != IGNORED).sum()) == sum(answers)


def test_a_network_may_begin_with_the_other_one() -> None:
    """What both have is taken over; what only one has stays."""
    torch.manual_seed(0)
    vila, llava = NETWORKS["vila"](), NETWORKS["llava"]()
    own = llava.head.weight[PIECES:].clone()
    class_token = llava.tower.embeddings.position_embedding.weight[0].clone()
    llava.begin_with(vila)
    assert torch.equal(llava.head.weight[:PIECES], vila.head.weight) and torch.equal(llava.head.weight[PIECES:], own)
    places = llava.tower.embeddings.position_embedding.weight
    assert torch.equal(places[1:], vila.tower.embeddings.position_embedding.weight)
    assert torch.equal(places[0], class_token)
    layers = [network.decoder.layers[2].mlp.up_proj.weight for network in (vila, llava)]
    assert torch.equal(*layers)


def test_batches_are_the_same_with_helpers(tmp_path: Path) -> None:
    """Pictures drawn by other processes are ours; a worker's questions are about the scenes that it names."""
    drawn = [Pictures(SCENES[:20], SIDE, 4, True, workers) for workers in (0, 2)]
    assert torch.equal(drawn[0].levels, drawn[1].levels)
    network = NETWORKS["vila"]()
    network.write_tokenizer(tmp_path)
    prompts = Prompts(tmp_path / network.tokenizer, network.system, network.image_id)
    asked = Questions(SCENES[:20], prompts, 16, 2, batch=3, each=4)
    batches = iter(DataLoader(asked, batch_size=None, num_workers=1, collate_fn=as_it_is))
    shown = set()
    for (chosen, packed), (again, own) in zip(islice(batches, 8), asked, strict=False):
        assert chosen == again and torch.equal(packed.ids, own.ids) and torch.equal(packed.owner, own.owner)
        pictures = packed.rows.shape[1] // 16
        shown.add(pictures)
        assert len(chosen) == 3 * pictures and int(packed.owner.max()) == 4
    assert shown == {1, 2}
