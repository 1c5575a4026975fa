"""What a model is: the constants that no config file of it states, and its variants.

A spec is data. Code elsewhere branches on what a spec says (`image_token`, `max_images`, ...), never on its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# Specs import these from here, with their other parts.
from generator.build_spec import WITH_ATTENTION_PLUGIN as WITH_ATTENTION_PLUGIN
from generator.build_spec import BuildSpec as BuildSpec
from generator.build_spec import EngineBuild as EngineBuild
from generator.evidence import MERLION as MERLION
from generator.evidence import WHICH_CITY as WHICH_CITY
from generator.evidence import Acceptance as Acceptance
from generator.evidence import Evidence as Evidence
from generator.evidence import Tolerance as Tolerance
from generator.sizes import LlmSize, TowerSize

PixelStep = tuple[str | int, ...]


@dataclass(frozen=True)
class PixelSpec:
    """How a decoded RGB image becomes one image of the vision engine's input.

    Attributes:
        steps: geometric steps in order, on uint8 pixels: ("resize_shortest", n), ("resize", height, width),
            ("center_crop", height, width), ("pad_square", r, g, b), ("on_white",) for a PNG's transparent colour,
            which transformers' processors paint white when they convert to RGB.
        shape: of one entry of the engine's input; after the steps (channels, height, width).
        mean, std: per channel, of values rescaled to 0..1; () where each image is standardized by its own.
        resample: Pillow's filter number (3 = bicubic).
        rescale_factor: applied before mean and std.
    """

    steps: tuple[PixelStep, ...]
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int = 3
    rescale_factor: float = 1 / 255


@dataclass(frozen=True)
class Conversation:
    """The prompt around the user's text.

    Attributes:
        template: holds {text}.
        stop_words: end an answer besides end_id.
        following: what continues a conversation after a turn; holds {answer} and {text}; "" = a single turn only.
    """

    name: str
    template: str
    stop_words: tuple[str, ...] = ()
    following: str = ""


@dataclass(frozen=True)
class Tokens:
    """Token ids used while no tokenizer has been read."""

    bos: int | None
    end: int
    pad: int
    image: int | None = None
    start: int | None = None  # what an encoder-decoder's decoder starts from


@dataclass(frozen=True)
class Variant:
    """One checkpoint of a model.

    Attributes:
        name: last path component of the checkpoint, as the guide uses it.
        source: repository of the weights.
        hidden_size, vocab_size, max_positions: of the LLM; the engine's or checkpoint's own numbers win.
        rows_per_image: prompt table rows of one entry of the engine's input, which is an image or a tile of it.
        llm_size, tower: for memory plans made before there are engines.
        short_positions: positions up to which the LLM's first position factors hold; a sequence should not cross it.
        refused: why this variant cannot be generated; empty = it can.
        no_torch: why `--runtime torch` cannot run it; empty = it can.
    """

    name: str
    source: str
    hidden_size: int
    vocab_size: int
    max_positions: int
    rows_per_image: int
    pixels: PixelSpec
    conversation: Conversation
    tokens: Tokens
    llm_size: LlmSize | None = None
    tower: TowerSize | None = None
    short_positions: int | None = None
    refused: str = ""
    no_torch: str = ""


@dataclass(frozen=True)
class Piece:
    """A part of a prompt of fixed order: a text, which may hold {text}, or one token by its name.

    `token_id` is used while no tokenizer has been read; `special_tokens` adds what the tokenizer puts around a text;
    `strip` takes white space off both ends of the user's text; `start` is the decoder's start token.
    """

    text: str = ""
    special_tokens: bool = False
    strip: bool = False
    token: str = ""
    token_id: int = 0
    start: bool = False


@dataclass(frozen=True)
class PromptSpec:
    """What stands around the images; `module` is the capability module of preprocessing that builds it.

    marked_prompt places images at marks of the text, in the variant's conversation template; tagged_prompt at numbered
    tags as well (`image_tag`, which holds NUMBER). sequence_prompt has a fixed order: `before`, the image, `after`;
    chat_sequence_prompt too, unless the request leaves out the chat template; question_prompt takes the bare text then.
    Without `text` the model has no prompt: a request's text may be absent and is not looked at. `banned` tokens never
    come in an answer.
    """

    module: str = "marked_prompt"
    image_tag: str = ""
    before: tuple[Piece, ...] = ()
    after: tuple[Piece, ...] = ()
    text: bool = True
    banned: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class MediaSpec:
    """What a prompt shows.

    Attributes:
        module: of preprocessing, which reads the inputs.
        needed, noun: words for messages. input: which takes it, for messages and examples.
        file, question: an example.
        as_uri: whether a data URI may hold it.
        limits: fields of Limits that bound one of it.
        font: the font that the model was trained with, where headed_images draws the request's text above its image.
        default_text: what is drawn for a request without text.
    """

    module: str = "images"
    needed: str = "an image"
    input: str = "image_encoded_input"
    noun: str = "image"
    file: str = "photo.jpg"
    question: str = "What is in the picture?"
    as_uri: bool = True
    limits: tuple[str, ...] = ("max_image_bytes", "max_image_pixels")
    font: str = ""
    default_text: str = ""


VIDEO = MediaSpec(
    module="videos",
    needed="a video",
    input="video_encoded_input",
    noun="video",
    file="clip.mp4",
    question="What happens in the video?",
    as_uri=False,
    limits=("max_video_bytes", "max_video_frames", "max_video_seconds", "max_frame_pixels"),
)


@dataclass(frozen=True)
class LayoutSpec:
    """How an image becomes entries of the engine's input and positions in the prompt.

    Attributes:
        module: the capability module of preprocessing.
        settings: its settings.
        largest: the settings -> (entries, prompt tokens) that one image takes at most; None = one entry, its rows.
        smallest: the settings -> (table rows, prompt tokens) that one image takes at least; None = every image takes
            the same.
        in_order: the prompt picks the rows of the table in their order, each once.
        shared_positions: tokens of an image that take no position of their own.
        from_config: setting -> key of the checkpoint's config.json that overrides it.
        from_processor: setting -> key of its preprocessor_config.json.
        from_tokenizer: setting -> token whose id overrides it.
    """

    module: str = "fixed_rows"
    settings: Mapping[str, Any] = field(default_factory=dict)
    largest: Callable[[Mapping[str, Any]], tuple[int, int]] | None = None
    smallest: Callable[[Mapping[str, Any]], tuple[int, int]] | None = None
    in_order: bool = True
    shared_positions: int = 0
    from_config: Mapping[str, str] = field(default_factory=dict)
    from_processor: Mapping[str, str] = field(default_factory=dict)
    from_tokenizer: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PostSpec:
    """What answers become: `module` of postprocessing, and the outputs (STRING) that it gives besides text_output."""

    module: str = "plain_text"
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenizerSpec:
    """Which file serving tokenizes with, and the module of templates/shared/ that reads it.

    `spelled`: tokens that the tokenizer only spells out, and what they stand for.
    """

    file: str = "tokenizer.json"
    module: str = "tokenizers_text"
    spelled: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointSpec:
    """Where a checkpoint states its numbers.

    Attributes:
        llm: key of config.json that holds the LLM's config; "" = config.json itself.
        hidden_size: key of the LLM's hidden size in it.
        vision: key of config.json that holds the vision tower's config.
        rows: key of config.json that states the rows per image; "" = from the vision tower's patches.
        more_rows: rows of an image besides those of its patches.
        other_model: key of config.json that only another model of the same architecture's name has.
        squash: the image processor's config states a short edge, but the model squashes images to that square.
        archive: name of the NeMo archive that is the checkpoint; "" = a folder as Hugging Face writes it.
        projector: name of another archive that has the vision side; "" = it is in the checkpoint.
        processor: key of preprocessor_config.json -> the value that the repository is made for.
        start: keys that lead to the decoder's start token in config.json; () = the model has no separate decoder.
        llm_defaults: vocabulary and hidden size where config.json is silent, which are those of its config class.
        llm_types: `model_type` values of the LLM's config, where models of one type differ in it; () = not looked at.
    """

    llm: str = "text_config"
    hidden_size: str = "hidden_size"
    vision: str = "vision_config"
    rows: str = ""
    more_rows: int = 0
    other_model: str = ""
    squash: bool = False
    archive: str = ""
    projector: str = ""
    processor: Mapping[str, Any] = field(default_factory=dict)
    start: tuple[str, ...] = ()
    llm_defaults: tuple[int, int] = (32000, 4096)
    llm_types: tuple[str, ...] = ()


@dataclass(frozen=True)
class TorchSpec:
    """How the torch runtime loads a checkpoint.

    Attributes:
        vision_module: the module beside the vision step's model.py.
        llm_attribute: which attribute of the class that transformers loads is the LLM; "" = itself.
        llm_module: the module beside the LLM step's model.py that loads it.
        prompt_form: the module that makes a request row the model's calls: table_prompt for a decoder that reads the
            prompt table, encoder_prompt where an encoder reads it, cross_features for a decoder that attends to it,
            visual_expert for one that reads the table with weights and positions of their own.
    """

    vision_module: str
    llm_attribute: str = ""
    llm_module: str = "hf_llm"
    prompt_form: str = "table_prompt"


@dataclass(frozen=True)
class ModelSpec:
    """A model of TensorRT-LLM's multimodal guide.

    Attributes:
        variants: the first one is what the bare model name means.
        engine_model_types: `builder_config.model_type` values of its vision engine.
        checkpoint_model_types: `model_type` values of its config.json, or its architecture where that has none.
        llm_folder: sub-folder of the checkpoint that holds LLM and tokenizer; "" = the checkpoint itself.
        image_mark: text that marks an image's place.
        image_token: True = the mark is a token of the vocabulary; False = the prompt is split at the mark.
        image_prefix: put before the text once per image when the text has no mark.
        end_text: text whose one token ends an answer, where that is not the tokenizer's end token.
        constants: (file, names): the file beside the vision engine that holds the constant rows, and their names in it.
        constant_rows: rows of the checkpoint that the vision step puts before those of the images.
        image_required: refuse requests without an image.
        max_images: largest number of images in one prompt, None = as many as the limits allow.
        default_images: images per request that default limits are sized for.
        default_max_tokens: length of an answer unless asked otherwise, or as much of it as fits.
        dtype: of the LLM. vision_dtype: of the vision engine's input, until there is an engine that says it.
        only_dtype: engines of another dtype, or quantized, are refused.
        misstated_precision: what the vision engine's config.json wrongly says -> what the engine is.
        routes: ways to run the LLM (generator/routes.py), the default first.
        carries: what the vision step gives the LLM: rows for the prompt table, or features to attend to.
        llm_parameters: of the backend, where the model wants another value than the release's default.
    """

    name: str
    title: str
    variants: tuple[Variant, ...]
    engine_model_types: tuple[str, ...]
    checkpoint_model_types: tuple[str, ...]
    image_mark: str
    image_token: bool
    image_prefix: str
    torch: TorchSpec
    build: BuildSpec
    evidence: Evidence
    prompt: PromptSpec = PromptSpec()
    layout: LayoutSpec = LayoutSpec()
    media: MediaSpec = MediaSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    tokenizer: TokenizerSpec = TokenizerSpec()
    post: PostSpec = PostSpec()
    routes: tuple[str, ...] = ("prompt_table",)
    carries: Literal["prompt_embedding_table", "encoder_input_features"] = "prompt_embedding_table"
    llm_parameters: Mapping[str, str] = field(default_factory=dict)
    end_text: str = ""
    constant_rows: int = 0
    constants: tuple[str, tuple[str, ...]] = ("", ())
    llm_folder: str = ""
    image_required: bool = False
    max_images: int | None = 1
    default_images: int = 1
    default_max_tokens: int = 128
    default_release: str = "1.2.1"
    dtype: str = "float16"
    vision_dtype: str = "float16"
    only_dtype: bool = False
    misstated_precision: Mapping[str, str] = field(default_factory=dict)

    @property
    def separate_decoder(self) -> bool:
        """Whether the LLM's decoder starts from a token of its own and attends to what an encoder gives."""
        return bool(self.checkpoint.start)

    @property
    def encodes_prompt(self) -> bool:
        """Whether an encoder of the LLM reads the prompt and its table."""
        return self.separate_decoder and self.carries == "prompt_embedding_table"

    def summary(self) -> dict[str, Any]:
        """What `gen-repo list --json` says of this model."""
        images = "any number of images" if self.max_images is None else f"{self.max_images} {self.media.noun}(s)"
        return {
            "model": self.name,
            "title": self.title,
            "images": images,
            "text_only": not self.image_required,
            "default_release": self.default_release,
            "routes": list(self.routes),
            "quantizations": ["none", *self.build.quantizations, *self.build.untried],
            "variants": [{"name": v.name, "refused": v.refused, "no_torch": v.no_torch} for v in self.variants],
        }
