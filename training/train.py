"""`python -m training.train --model vila --out D`: draws the data, trains, and writes the checkpoint of the best state.

First the tower learns what lies where (labels of the cells that the rows stand for), then everything learns to answer.
On one GPU that takes minutes, on two cores about three quarters of an hour. `D` is then a checkpoint that gen-repo
takes as --hf-model-dir, and holds training_log.jsonl.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from training import questions
from training.batches import IGNORED, Packed, Pictures, pack
from training.networks import HIDDEN, NETWORKS, SIDE, Network
from training.scenes import COLOURS, KINDS
from training.split import training, validation
from training.texts import Prompts

BACKGROUND_WEIGHT = 0.15
STATE = "training_state.pt"


@dataclass
class Trainer:
    """One run. `questions_each`: about one picture, packed into one sequence."""

    network: Network
    prompts: Prompts
    pictures: Pictures
    held: Pictures
    device: torch.device
    out: Path
    batch: int
    minutes: float
    questions_each: int = 8
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    best: float = -1.0
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.classify = torch.nn.Linear(HIDDEN, 2 + len(KINDS) + len(COLOURS)).to(self.device)
        self.rows = self.network.grid**2
        self.log = (self.out / "training_log.jsonl").open("a")

    def see(self, steps: int, rate: float, every: int) -> None:
        """Teach the tower and projector alone."""
        parts = [*self.classify.parameters(), *self._parameters(language=False)]
        for step in self._steps(parts, steps, rate):
            chosen = self._chosen(4 * self.batch)
            with self._autocast():
                loss = self._labels_loss(self._rows(self.pictures, chosen), chosen)
            loss.backward()
            if (step + 1) % every == 0:
                self._note(stage="see", step=step + 1, loss=loss.item(), cells=self._cells_right())

    def answer(self, steps: int, rate: float, every: int) -> None:
        """Teach everything to answer; the best state on validation scenes is written."""
        parts = [*self.classify.parameters(), *self._parameters(language=True)]
        total = 0.0
        for step in self._steps(parts, steps, rate):
            pictures = 1 if self.network.most_images == 1 or self.rng.random() < 0.7 else 2
            chosen = self._chosen(self.batch * pictures)
            asked = [self._asked(chosen[i : i + pictures]) for i in range(0, len(chosen), pictures)]
            packed = pack(asked, self.prompts, self.rows, pictures).to(self.device)
            with self._autocast():
                rows = self._rows(self.pictures, chosen)
                loss = self._answers_loss(packed, rows) + 0.2 * self._labels_loss(rows, chosen)
            total += loss.item()
            loss.backward()
            if (step + 1) % every == 0:
                self._judge(step + 1, total / every)
                total = 0.0

    def _judge(self, step: int, loss: float) -> None:
        self.network.eval()
        right = {pictures: self._right(pictures) for pictures in range(1, self.network.most_images + 1)}
        self.network.train()
        score = sum(right.values()) / len(right)
        self._note(stage="answer", step=step, loss=loss, right=right)
        if score > self.best:
            self.best = score
            self.network.write(self.out)
            torch.save(self.network.state_dict(), self.out / STATE)

    @torch.inference_mode()
    def _right(self, pictures: int) -> float:
        """Share of validation questions whose every answer token is the likeliest: what greedy decoding gives."""
        rng, hits = random.Random(1), []
        for begin in range(0, len(self.held) - pictures + 1, 64):
            chosen = list(range(begin, min(begin + 64, len(self.held))))
            chosen = chosen[: len(chosen) // pictures * pictures]
            scenes = [self.held.scenes[i] for i in chosen]
            groups = [scenes[i : i + pictures] for i in range(0, len(scenes), pictures)]
            asked = [[_question(group, rng) for _ in range(2)] for group in groups]
            packed = pack(asked, self.prompts, self.rows, pictures).to(self.device)
            logits, targets, owner = self._logits(packed, self._rows(self.held, chosen))
            wrong = torch.zeros(int(owner.max()) + 1, device=self.device)
            wrong.index_add_(0, owner, (logits.argmax(-1) != targets).float())
            hits += (wrong == 0).tolist()
        return sum(hits) / len(hits)

    def _logits(self, packed: Packed, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits and targets of the answers' tokens, and for each the number of its question."""
        embedded = self.network.decoder.embed_tokens(packed.ids)
        flat = rows.reshape(len(packed.ids), -1, HIDDEN).to(embedded.dtype)
        embedded = embedded.scatter(1, packed.rows[:, :, None].expand(-1, -1, HIDDEN), flat)
        hidden = self.network.decoder(
            inputs_embeds=embedded, attention_mask=packed.visible, position_ids=packed.positions, use_cache=False
        ).last_hidden_state
        wanted = packed.targets != IGNORED
        ends = torch.cat([torch.zeros_like(wanted[:, :1]), wanted[:, :-1] & ~wanted[:, 1:]], 1)
        owner = ends.flatten().cumsum(0)[wanted.flatten()]  # answers follow one another, each after a gap
        return self.network.head(hidden[wanted]), packed.targets[wanted], owner

    def _answers_loss(self, packed: Packed, rows: torch.Tensor) -> torch.Tensor:
        logits, targets, _ = self._logits(packed, rows)
        return functional.cross_entropy(logits.float(), targets)

    def _labels_loss(self, rows: torch.Tensor, chosen: list[int]) -> torch.Tensor:
        kinds, colours = self._classified(rows)
        loss = rows.new_zeros((), dtype=torch.float32)
        for logits, true in ((kinds, self.pictures.kinds[chosen]), (colours, self.pictures.colours[chosen])):
            weight = torch.ones(logits.shape[-1], device=self.device)
            weight[0] = BACKGROUND_WEIGHT
            loss = loss + functional.cross_entropy(logits.flatten(0, 1).float(), true.flatten(), weight)
        return loss

    def _classified(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.classify(rows)
        return logits[..., : 1 + len(KINDS)], logits[..., 1 + len(KINDS) :]

    @torch.inference_mode()
    def _cells_right(self) -> float:
        """Share of validation pictures in which every cell is labelled right."""
        chosen = list(range(min(512, len(self.held))))
        kinds, colours = self._classified(self._rows(self.held, chosen))
        right = (kinds.argmax(-1) == self.held.kinds[chosen]) & (colours.argmax(-1) == self.held.colours[chosen])
        return float(right.all(-1).float().mean())

    def _steps(self, parts: list[Any], steps: int, rate: float) -> Iterator[int]:
        """Numbers of steps; after each, the optimizer takes one. Its rate is warmed up, then cooled to nothing at the
        end of the steps, or of the run's minutes if that comes first."""
        optimizer = torch.optim.AdamW(parts, lr=rate, betas=(0.9, 0.98), weight_decay=0.02)
        begin, limit = self._minutes(), self.minutes
        for step in range(steps):
            done = max(step / steps, (self._minutes() - begin) / (limit - begin))
            if done >= 1:
                return
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 200) * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
            yield step
            torch.nn.utils.clip_grad_norm_(parts, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _minutes(self) -> float:
        return (time.monotonic() - self.began) / 60

    def _parameters(self, *, language: bool) -> list[Any]:
        own = {id(p) for p in (*self.network.decoder.parameters(), *self.network.head.parameters())}
        return [p for p in self.network.parameters() if language or id(p) not in own]

    def _chosen(self, count: int) -> list[int]:
        return [self.rng.randrange(len(self.pictures)) for _ in range(count)]

    def _asked(self, chosen: list[int]) -> list[tuple[str, str]]:
        scenes = [self.pictures.scenes[i] for i in chosen]
        return [_question(scenes, self.rng) for _ in range(self.questions_each)]

    def _rows(self, pictures: Pictures, chosen: list[int]) -> torch.Tensor:
        return self.network.rows(pictures.pixels(chosen, self.network.mean, self.network.std))

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16)

    def _note(self, **facts: Any) -> None:
        line = json.dumps({"seconds": round(time.monotonic() - self.began), **facts})
        print(line, flush=True)
        print(line, file=self.log, flush=True)


def _question(scenes: list[Any], rng: random.Random) -> tuple[str, str]:
    return questions.ask(scenes[0], rng) if len(scenes) == 1 else questions.ask_pair(scenes[0], scenes[1], rng)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=NETWORKS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=40000)
    parser.add_argument("--see-steps", type=int, default=1500, help="steps of the tower alone")
    parser.add_argument("--steps", type=int, default=9000, help="steps of the whole")
    parser.add_argument("--batch", type=int, default=32, help="questioned pictures per step of the whole")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--every", type=int, default=300, help="steps between looks at validation scenes")
    parser.add_argument("--minutes", type=float, default=60.0, help="end after this time, the rate cooled down by then")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--begin-with", type=Path, metavar="D", help="trained folder of the other model to start from")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = NETWORKS[arguments.model]()
    if arguments.begin_with:
        other = NETWORKS["vila" if arguments.model == "llava" else "llava"]()
        other.load_state_dict(torch.load(arguments.begin_with / STATE, weights_only=True))
        network.begin_with(other)
    network.write(arguments.out)
    print(f"{sum(p.numel() for p in network.parameters())} parameters", file=sys.stderr)
    shape = (SIDE, network.grid, network.columns_first)
    trainer = Trainer(
        network=network.to(device),
        prompts=Prompts(arguments.out / network.tokenizer, network.system, network.image_id),
        pictures=Pictures(list(training(arguments.scenes)), *shape).to(device),
        held=Pictures(validation(), *shape).to(device),
        device=device,
        out=arguments.out,
        batch=arguments.batch,
        minutes=arguments.minutes,
    )
    trainer.see(arguments.see_steps, arguments.rate, arguments.every)
    trainer.answer(arguments.steps, arguments.rate, arguments.every)
    return 0


if __name__ == "__main__":
    sys.exit(main())
