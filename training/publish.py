"""`python -m training.publish --model vila --from D`: measures a trained checkpoint, puts it where the demo looks.

The measure is transformers' generate() in fp16 on the CPU, on the held-out test questions. Weights, training log and a
model card go to generator/data/demo/<model>; the demo's pictures are drawn from test scenes.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

from training.batches import levels
from training.networks import NETWORKS, SIDE, Network
from training.questions import describe
from training.scenes import Scene, png
from training.split import Asked, held_out_questions, test
from training.texts import Prompts
from training.train import STATE

DATA = Path(__file__).parents[1] / "generator/data/demo"


class Answering:
    """A checkpoint's network in fp16 that answers a prompt as generate() does."""

    def __init__(self, network: Network, folder: Path) -> None:
        network.load_state_dict(torch.load(folder / STATE, weights_only=True, map_location="cpu")["weights"])
        self.network = network.half().eval()
        self.prompts = Prompts(folder / network.tokenizer, network.system, network.image_id)
        self.model: LlamaForCausalLM | LlavaForConditionalGeneration = getattr(network, "llm", None) or network.whole
        self.tokenizer = self.prompts.tokenizer

    def __call__(self, asked: Asked) -> str:
        seen = [torch.from_numpy(levels(scene, SIDE).copy()) for scene in asked.scenes]
        values = torch.stack(seen).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (self.network.mean, self.network.std))
        embed = self.network.decoder.embed_tokens
        with torch.inference_mode():
            rows = self.network.rows(((values - mean) / std).half())
            *before, after = self.prompts.parts(asked.question, None, len(asked.scenes))
            pieces = [part for ids, row in zip(before, rows, strict=True) for part in (embed(torch.tensor(ids)), row)]
            prompt = torch.cat([*pieces, embed(torch.tensor(after))])[None]
            made: Any = self.model.generate(
                inputs_embeds=prompt,
                attention_mask=torch.ones(prompt.shape[:2], dtype=torch.long),
                do_sample=False,
                max_new_tokens=64,
                eos_token_id=2,
                pad_token_id=2,
            )
        return str(self.tokenizer.decode(made[0], skip_special_tokens=True))


def measure(answering: Answering, pictures: int, count: int) -> dict[str, Any]:
    """The share of exact answers, and what was answered wrongly."""
    every = held_out_questions(count, pictures)
    answers = [answering(asked) for asked in every]
    wrong = [
        f"scene {', '.join(str(s.seed) for s in asked.scenes)}: {asked.question} {answer} (right: {asked.answer})"
        for asked, answer in zip(every, answers, strict=True)
        if answer != asked.answer
    ]
    return {"pictures": pictures, "questions": count, "exact": 1 - len(wrong) / count, "wrong": wrong}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=NETWORKS, required=True)
    parser.add_argument("--from", dest="folder", type=Path, required=True, metavar="D")
    parser.add_argument("--note", default="", help="what the model card should say of this training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network = NETWORKS[arguments.model]()
    parameters = sum(weight.numel() for weight in network.parameters())
    answering = Answering(network, arguments.folder)
    target = DATA / arguments.model
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(arguments.folder, target, ignore=shutil.ignore_patterns(STATE, ".*"))
    measured = [measure(answering, n, 500 // n) for n in range(1, network.most_images + 1)]
    (target / "held_out.json").write_text(json.dumps(measured, indent=1) + "\n")
    size = sum(file.stat().st_size for file in target.rglob("*.safetensors"))
    (target / "README.md").write_text(card(arguments.model, parameters, size, measured, arguments.note))
    show_questions()
    for one in measured:
        print(f"{one['pictures']} picture(s): {one['exact']:.1%} of {one['questions']} exact")
    return 0


def shown() -> list[Asked]:
    """The demo's questions with their right answers, about the first test scenes that suit them."""

    def first(things: int, *, digit: bool) -> Scene:
        return next(s for s in test() if len(s.things) == things and any(t.is_digit for t in s.things) == digit)

    few, many, read = first(3, digit=False), first(4, digit=False), first(3, digit=True)
    [corner] = [thing.place for thing in read.things if thing.is_digit]
    return [
        Asked((few,), "What is in the picture?", describe(few, random.Random(0))[1]),
        Asked((many,), "How many things are there?", "4"),
        Asked((read,), "In which corner is the digit?", corner),
        Asked((few, many), "Which picture has more things?", "the second"),
    ]


def show_questions() -> None:
    """Write the demo's pictures and questions."""
    shutil.rmtree(DATA / "pictures", ignore_errors=True)
    (DATA / "pictures").mkdir(parents=True)
    names: dict[int, str] = {}
    written = []
    for asked in shown():
        for scene in asked.scenes:
            names.setdefault(scene.seed, f"{len(names) + 1}.png")
            (DATA / "pictures" / names[scene.seed]).write_bytes(png(scene))
        pictures = [names[scene.seed] for scene in asked.scenes]
        written.append({"pictures": pictures, "question": asked.question, "answer": asked.answer})
    (DATA / "questions.json").write_text(json.dumps(written, indent=1) + "\n")


def card(model: str, parameters: int, size: int, measured: list[dict[str, Any]], note: str) -> str:
    """The model card."""
    title = {"vila": "VILA-1.5", "llava": "LLaVA-1.5"}[model]
    figures = "\n".join(f"| {one['pictures']} | {one['questions']} | {one['exact']:.1%} |" for one in measured)
    return f"""# A small model in the layout of {title}

{parameters:,} parameters, {size / 1e6:.1f} MB in fp16: a vision tower, a projector and a Llama of the kinds that
{title} is made of, small enough to come with gen-repo. `gen-repo demo --model {model}` serves it.

**What it is not**: a model of the world. It knows up to four coloured circles, squares, triangles and stars, or one
digit among them, on a plain background, and the questions about them in `training/questions.py`. Anything else gets a
senseless answer. It shows that a path from picture to text is right, and measures nothing about {title}.

**Data**: scenes drawn in code (`training/scenes.py`), with questions and answers made from what was drawn. Held-out
scenes were chosen first; training leaves out every scene that has the same things, in the same colours, at places equal
to a sixteenth of the picture's side.

**Measured** on test scenes that neither training nor the choice of the best state saw: greedy answers of transformers'
generate(), fp16 on a CPU, equal to the right answer letter by letter (`held_out.json` lists the wrong ones).

| pictures in a question | questions | exact answers |
|---|---|---|
{figures}

**Training**: `python -m training.train --model {model} --out D`, then
`python -m training.publish --model {model} --from D`. `training_log.jsonl` is the log; its shares `right` are those of
validation questions with one and with two pictures whose every answer token was the likeliest.{note}

**Licence**: Apache-2.0, as gen-repo. No weights, pictures or texts of others went into it.
"""


if __name__ == "__main__":
    sys.exit(main())
