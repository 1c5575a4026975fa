"""What the oracles of all models share: opening images, greedy generation, placing vision rows."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers.image_utils import load_image

Image = bytes | NDArray[np.uint8] | PIL.Image.Image
"""A JPEG, PNG or WebP file's bytes; decoded RGB pixels [H, W, 3] uint8; or a picture of Pillow."""

MARK = "<image>"


def open_image(image: Image) -> PIL.Image.Image:
    """The picture as transformers opens it: EXIF orientation applied, first frame, RGB; an array as it is."""
    if isinstance(image, np.ndarray):
        return PIL.Image.fromarray(image)
    opened = PIL.Image.open(BytesIO(image)) if isinstance(image, bytes) else image
    loaded: PIL.Image.Image = load_image(opened)
    return loaded


def from_checkpoint(model_class: Any, folder: Path) -> Any:
    """A model of the transformers class `model_class`, fp16 on the CPU, its kernels left at their default."""
    return model_class.from_pretrained(folder, dtype=torch.float16).eval()


def with_pillow(processor_class: Any, folder: Path) -> Any:
    """A processor or image processor whose pixels come from Pillow; those of torchvision differ a little."""
    processor = processor_class.from_pretrained(folder)
    if getattr(processor, "image_processor", processor).backend != "pil":
        raise RuntimeError("the oracle needs transformers' PIL image processors: uninstall torchvision")
    return processor


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a checkpoint in safetensors, in one file or in several that an index names."""
    index = folder / "model.safetensors.index.json"
    files = {"model.safetensors"}
    if index.is_file():
        files = set(json.loads(index.read_text())["weight_map"].values())
    return {name: weight for file in sorted(files) for name, weight in load_file(folder / file).items()}


@dataclass(frozen=True)
class Checkpoint:
    """What an oracle reads.

    Attributes:
        folder: of the checkpoint; of a NeMo model also the archive itself.
        conversation: name of the chat template, where a model has several.
        projector, tokenizer, font: files and folders outside the checkpoint, where a model has them there.
    """

    folder: Path
    conversation: str = ""
    projector: Path | None = None
    tokenizer: Path | None = None
    font: Path | None = None


class Oracle(ABC):
    """One model's truth. Vision rows are [n, N, h]: n images, N rows each, h the LLM's hidden size."""

    image_id: int
    """What stands in `ids` at each of an image's N positions."""
    tokenizer: Any
    model: Any
    """The part that has `generate` and the input embeddings."""
    end_ids: list[int]
    pad_id: int
    start_id: Any = None
    """What the decoder of an encoder-decoder begins with."""
    logits: NDArray[np.float32]
    """Of the latest answer, before anything is banned: [new tokens, vocabulary]."""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Oracle:
        """The oracle of `checkpoint`. ValueError when something is missing that no folder of it holds."""
        make: Any = cls
        return make(checkpoint.folder)  # type: ignore[no-any-return]

    @abstractmethod
    def prompt(self, text: str, images: int, raw: bool = False) -> str:
        """The string that is tokenized. `raw` returns `text`, else the model's template holds it.

        Marks `<image>` in `text` stay where they are and must be as many as `images`; without any, the
        template places the images. ValueError when marks and images do not match.
        """

    @abstractmethod
    def ids(self, text: str, images: Sequence[Image] = (), raw: bool = False) -> list[int]:
        """Token ids of the whole sequence, with N times `image_id` where an image stands."""

    @abstractmethod
    def pixels(self, images: Sequence[Image]) -> NDArray[np.float16]:
        """What the vision encoder gets, [n, 3, S, S]."""

    @abstractmethod
    def rows(self, pixels: NDArray[np.float16]) -> NDArray[np.float16]:
        """Vision rows [n, N, h] of `pixels` [n, 3, S, S], projector included."""

    def selected(self, images: Sequence[Image]) -> NDArray[Any]:
        """The rows [k, h] that stand at the image positions of `ids`, in order."""
        rows = self.rows(self.pixels(images))
        return rows.reshape(-1, rows.shape[-1])

    def seen(self, text: str, images: Sequence[Image]) -> NDArray[Any]:
        """What the vision encoder gets of a request: of most models, `pixels`."""
        return self.pixels(images)

    def carried(self, text: str, images: Sequence[Image]) -> NDArray[Any]:
        """The rows [k, h] that the LLM gets of a request: at the image positions, or to attend to."""
        return self.selected(images)

    def continuation(self, ids: Sequence[int], rows: NDArray[np.float16] | None, max_new_tokens: int) -> list[int]:
        """Greedy new token ids after `ids`, whose image positions take `rows` one by one in order.

        This is the entry for mutations: any ids, any rows. ValueError if positions and rows differ in number.
        """
        sequence = torch.tensor([list(ids)])
        is_image = sequence == self.image_id
        embedded = self.model.get_input_embeddings()(sequence.masked_fill(is_image, 0))
        flat = embedded.new_zeros(0, embedded.shape[-1])
        if rows is not None:
            flat = torch.from_numpy(np.ascontiguousarray(rows)).flatten(0, 1)
        if len(flat) != int(is_image.sum()):
            raise ValueError(f"{int(is_image.sum())} image positions but {len(flat)} vision rows")
        embedded[is_image] = flat
        return self._generate(max_new_tokens, inputs_embeds=embedded, attention_mask=torch.ones_like(sequence))

    def generate(
        self, text: str, images: Sequence[Image] = (), max_new_tokens: int = 32, raw: bool = False
    ) -> tuple[list[int], str]:
        """Greedy answer: new token ids (with the end token if it came), their text without special tokens."""
        rows = self.rows(self.pixels(images)) if images else None
        new = self.continuation(self.ids(text, images, raw), rows, max_new_tokens)
        return new, self.text(new)

    def text(self, ids: Sequence[int]) -> str:
        """Text of new token ids, special tokens left out, nothing stripped."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _generate(self, max_new_tokens: int, whole: Any = None, **inputs: torch.Tensor) -> list[int]:
        """New token ids. `whole` is what to call where `model` is but its language model."""
        configuration: Any = transformers.GenerationConfig
        greedy = configuration(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=self.end_ids,
            pad_token_id=self.pad_id,
            decoder_start_token_id=self.start_id,
            return_dict_in_generate=True,
            output_logits=True,
        )
        self.model.generation_config = greedy  # so that nothing of the checkpoint's own file is merged in
        with torch.inference_mode():
            produced = (whole or self.model).generate(**inputs, generation_config=greedy)
        given = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        self.logits = torch.cat(produced.logits).float().numpy()
        new: list[int] = produced.sequences[0, given:].tolist()
        return new


def checked_marks(text: str, images: int) -> bool:
    """Whether `text` places its images by marks. ValueError if it does, but for another number of images."""
    marks = text.count(MARK)
    if marks not in (0, images):
        raise ValueError(f"the text has {marks} {MARK} marks but the request has {images} images")
    return marks > 0
