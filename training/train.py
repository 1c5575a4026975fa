"""`python -m training.train --model vila --out D`: draws the data, trains, and writes the checkpoint of the best state.

First the tower learns what lies where (labels of the cells that the rows stand for), then everything learns to answer.
On one GPU that is meant to take less than three minutes, on processor cores --minutes says how long. `D` is then a
checkpoint that gen-repo takes as --hf-model-dir, and holds training_log.jsonl.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from training.batches import IGNORED, Packed, Pictures, Questions, as_it_is, ask, pack
from training.networks import HIDDEN, NETWORKS, SIDE, Network
from training.scenes import COLOURS, KINDS
from training.split import training, validation
from training.texts import Prompts

BACKGROUND_WEIGHT = 0.15
STATE = "training_state.pt"


@dataclass
class Trainer:
    """One run. `batch`: sequences of `questions_each` questions; `workers`: processes that make them, 0 for none."""

    network: Network
    prompts: Prompts
    pictures: Pictures
    held: Pictures
    device: torch.device
    out: Path
    batch: int
    minutes: float
    workers: int = 0
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
        asked = Questions(
            self.pictures.scenes, self.prompts, self.rows, self.network.most_images, self.batch, self.questions_each
        )
        batches = iter(DataLoader(asked, batch_size=None, num_workers=self.workers, collate_fn=as_it_is))
        total, step = 0.0, -1
        for step in self._steps(parts, steps, rate):
            chosen, packed = next(batches)
            packed = packed.to(self.device)
            with self._autocast():
                rows = self._rows(self.pictures, chosen)
                loss = self._answers_loss(packed, rows) + 0.2 * self._labels_loss(rows, chosen)
            total += loss.item()
            loss.backward()
            if (step + 1) % every == 0:
                self._judge(step + 1, total / every)
                total = 0.0
        if (step + 1) % every:
            self._judge(step + 1, total / ((step + 1) % every))

    def _judge(self, step: int, loss: float) -> None:
        self.network.eval()
        right = {pictures: self._right(pictures) for pictures in range(1, self.network.most_images + 1)}
        self.network.train()
        score = sum(right.values()) / len(right)
        self._note(stage="answer", step=step, loss=loss, right=right)
        if score > self.best:
            self.best = score
            self.network.write(self.out)
            learnt = {"model": self.network.name, "weights": self.network.state_dict()}
            torch.save(learnt, self.out / STATE)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def _right(self, pictures: int) -> float:
        """Share of validation questions whose every answer token is the likeliest: what greedy decoding gives."""
        rng, hits = random.Random(1), []
        for begin in range(0, len(self.held) - pictures + 1, 64):
            chosen = list(range(begin, min(begin + 64, len(self.held))))
            chosen = chosen[: len(chosen) // pictures * pictures]
            scenes = [self.held.scenes[i] for i in chosen]
            groups = [scenes[i : i + pictures] for i in range(0, len(scenes), pictures)]
            asked = [[ask(group, rng) for _ in range(2)] for group in groups]
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
            inputs_embeds=embedded, attention_mask=packed.visible(), position_ids=packed.positions, use_cache=False
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

    @torch.inference_mode()  # type: ignore[untyped-decorator]
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

    def _rows(self, pictures: Pictures, chosen: list[int]) -> torch.Tensor:
        return self.network.rows(pictures.pixels(chosen, self.network.mean, self.network.std))

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16)

    def _note(self, **facts: Any) -> None:
        line = json.dumps({"seconds": round(time.monotonic() - self.began), **facts})
        print(line, flush=True)
        print(line, file=self.log, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=NETWORKS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=60000)
    parser.add_argument("--see-steps", type=int, default=1500, help="steps of the tower alone")
    parser.add_argument("--steps", type=int, default=6000, help="steps of the whole")
    parser.add_argument("--batch", type=int, help="sequences per step of the whole (default: 128 on a GPU, else 16)")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--every", type=int, default=500, help="steps between looks at validation scenes")
    parser.add_argument(
        "--minutes", type=float, default=60, help="end then at the latest, the rate cooled down by then"
    )
    parser.add_argument("--begin-with", type=Path, metavar="D", help="trained folder, also of the other model")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    workers = max(1, len(os.sched_getaffinity(0)) - 2) if gpu else 0
    network = NETWORKS[arguments.model]()
    if arguments.begin_with:
        learnt = torch.load(arguments.begin_with / STATE, weights_only=True, map_location="cpu")
        other = NETWORKS[learnt["model"]]()
        other.load_state_dict(learnt["weights"])
        network.begin_with(other)
    network.write(arguments.out)
    print(f"{sum(p.numel() for p in network.parameters())} parameters", file=sys.stderr)
    shape = (SIDE, network.grid, network.columns_first)
    drawn, held = (Pictures(list(scenes), *shape, workers) for scenes in (training(arguments.scenes), validation()))
    trainer = Trainer(
        network=network.to(device),
        prompts=Prompts(arguments.out / network.tokenizer, network.system, network.image_id),
        pictures=drawn.to(device),
        held=held.to(device),
        device=device,
        out=arguments.out,
        batch=arguments.batch or (128 if gpu else 16),
        minutes=arguments.minutes or (2.5 if gpu else 60),
        workers=workers,
    )
    trainer.see(arguments.see_steps, arguments.rate, arguments.every)
    trainer.answer(arguments.steps, arguments.rate, arguments.every)
    return 0


if __name__ == "__main__":
    sys.exit(main())
