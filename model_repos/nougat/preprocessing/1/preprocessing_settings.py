"""The shape of settings.json, which gen-repo writes beside this file with every number already computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypedDict

from text_tokenizer import FileSettings


class Tokenizer(FileSettings):
    bos_id: int | None
    end_id: int
    pad_id: int
    vocab_size: int  # of the LLM, not of the tokenizer: the first fake id


class Prompt(TypedDict):
    module: str  # the prompt module beside this file
    image_mark: str
    image_required: bool
    text_required: bool
    banned_ids: list[int]  # tokens that never come in an answer
    stop_words: list[str]
    # of marked_prompt
    template: str  # holds {text} once
    image_prefix: str  # put before the text, once per image, when the text has no mark of its own
    image_token_id: int | None  # the mark's id, or None when the prompt is split at the mark
    # of tagged_prompt, with the template and prefix above
    image_tag: str  # holds NUMBER
    # of sequence_prompt: what stands before and after the image
    before: list[Any]
    after: list[Any]


class Media(TypedDict):
    module: str  # images or videos: reads the inputs
    needed: str  # for messages: what a request needs, an input that takes it, and what it is called
    input: str
    noun: str
    # of headed_images
    font: str  # its file beside this one
    default_text: str  # drawn where a request has no text


class Pixels(TypedDict):
    # in order: ["on_white"], ["resize_shortest", edge], ["resize", h, w], ["center_crop", h, w],
    # ["pad_square", r, g, b]
    steps: list[list[Any]]
    resample: int  # Pillow's number of the filter
    rescale_factor: float
    mean: list[float]
    std: list[float]
    shape: list[int]  # of one entry: channels, height, width, or as the layout has it; of uint8 channels come last
    dtype: str  # float16, bfloat16 or float32, or uint8: the encoder normalises
    decode_edge: int | None  # JPEGs may be decoded smaller, as long as each side keeps so many pixels
    least_entries: int  # of a request: 1 where the encoder takes no fewer, so that text comes with a blank one
    module: str  # numpy_numbers or bfloat16: arrays and tensors of that dtype


class Layout(TypedDict):
    module: str  # fixed_rows or another module beside this one; further entries are that module's


class Release(TypedDict):
    min_tokens: str  # names of the LLM's inputs in the release
    seed: str
    extra_ids: bool
    client_cache_ids: bool  # whether prompt_table_extra_id and cache_salt keep clients apart


class Limits(TypedDict):
    max_images: int
    max_batch: int
    max_input_len: int  # tokens, fake ids included
    max_seq_len: int
    max_table_rows: int
    default_max_tokens: int
    # of one image
    max_image_bytes: int
    max_image_pixels: int
    # of one video
    max_video_bytes: int
    max_video_frames: int
    max_frame_pixels: int
    max_video_seconds: int
    max_output_len: int | None  # of an answer, where the decoder does not read the prompt


class Settings(TypedDict):
    model: str
    tokenizer: Tokenizer
    prompt: Prompt
    pixels: Pixels
    layout: Layout
    media: Media
    rows_per_image: int  # of one entry of pixel_values
    constant_rows: int  # rows that the vision step puts before those of the images
    release: Release
    limits: Limits
    image_hosts: list[str]


def load(path: Path) -> Settings:
    """The settings in the JSON file `path`."""
    settings: Settings = json.loads(path.read_text(encoding="utf-8"))
    return settings
