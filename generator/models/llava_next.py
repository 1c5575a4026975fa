"""LLaVA-NeXT: CLIP-L/14 at 336 pixels over the whole image and over its tiles, with a newline row after each line.

Sources: llava-hf/llava-v1.6-* for sizes, grids and templates; transformers' LlavaNextImageProcessor and
`pack_image_features` for pixels and the order of rows. TensorRT-LLM's own runner swaps height and width there, which
scrambles images that are not square; this follows transformers.
"""

from collections.abc import Mapping
from typing import Any

from generator.models.llava import CLIP_MEAN, CLIP_STD
from generator.sizes import CLIP_L_336, MISTRAL_7B, YI_34B, LlmSize
from generator.spec import (
    MERLION,
    WHICH_CITY,
    WITH_ATTENTION_PLUGIN,
    Acceptance,
    BuildSpec,
    Conversation,
    Evidence,
    LayoutSpec,
    ModelSpec,
    PixelSpec,
    Tokens,
    TorchSpec,
    Variant,
)

TILE = 336
SIDE = 24  # rows per side of a tile: 336 / 14
GRIDS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))  # (height, width), in the checkpoint's order

MISTRAL = Conversation("mistral_instruct", "[INST] {text} [/INST]", following=" {answer}</s>[INST] {text} [/INST]")
HERMES_2 = Conversation(
    "hermes-2",
    "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n{text}<|im_end|><|im_start|>assistant\n",
    stop_words=("<|im_end|>",),
    following="{answer}<|im_end|><|im_start|>user\n{text}<|im_end|><|im_start|>assistant\n",
)


def largest(settings: Mapping[str, Any]) -> tuple[int, int]:
    """The small view and the most tiles; an image that fills its grid needs every line and a newline after each."""
    tile, side = settings["tile"], settings["rows_per_side"]
    grids = [(height // tile, width // tile) for height, width in settings["grids"]]
    entries = 1 + max(down * across for down, across in grids)
    return entries, side**2 + max(side * down * (side * across + 1) for down, across in grids)


def smallest(settings: Mapping[str, Any]) -> tuple[int, int]:
    """The small view and the fewest tiles; a line as narrow as can be is unpadded to one row and its newline."""
    tile, side = settings["tile"], settings["rows_per_side"]
    entries = 1 + min(height // tile * (width // tile) for height, width in settings["grids"])
    return entries * side**2, side**2 + 2 * side


def _variant(
    name: str,
    hidden_size: int,
    vocab_size: int,
    max_positions: int,
    conversation: Conversation,
    tokens: Tokens,
    llm_size: LlmSize,
) -> Variant:
    return Variant(
        name=name,
        source=f"llava-hf/{name}",
        hidden_size=hidden_size,
        llm_size=llm_size,
        tower=CLIP_L_336,
        vocab_size=vocab_size,
        max_positions=max_positions,
        rows_per_image=SIDE**2,
        pixels=PixelSpec(steps=(("on_white",),), shape=(3, TILE, TILE), mean=CLIP_MEAN, std=CLIP_STD),
        conversation=conversation,
        tokens=tokens,
    )


SPEC = ModelSpec(
    name="llava-next",
    title="LLaVA-NeXT",
    variants=(
        _variant(
            "llava-v1.6-mistral-7b-hf",
            4096,
            32064,
            32768,
            MISTRAL,
            Tokens(bos=1, end=2, pad=32001, image=32000),
            MISTRAL_7B,
        ),
        _variant("llava-v1.6-34b-hf", 7168, 64064, 4096, HERMES_2, Tokens(bos=1, end=7, pad=0, image=64000), YI_34B),
    ),
    engine_model_types=("llava_next",),
    checkpoint_model_types=("llava_next",),
    image_mark="<image>",
    image_token=True,
    image_prefix="<image>\n",
    layout=LayoutSpec(
        "anyres_tiles",
        {"grids": GRIDS, "tile": TILE, "rows_per_side": SIDE},
        largest=largest,
        smallest=smallest,
        in_order=False,
        from_config={"grids": "image_grid_pinpoints"},
    ),
    constant_rows=1,
    constants=("image_newlines.safetensors", ("image_newline",)),
    torch=TorchSpec("hf_llava_next"),
    build=BuildSpec(
        converter="llama",
        vision_arguments="--model_type llava_next",
        engines=(WITH_ATTENTION_PLUGIN,),
        fused_mlp=True,
        quantizations=("int8_wo", "int4_wo"),
        not_quantized="quantize.py does not know LLaVA-NeXT, and the Llama converter refuses SmoothQuant for it",
        notes=(
            "The guide's command ends early: a comment stands behind a backslash. And it gives --model_path twice.",
            "The table has the rows of all tiles and one newline row; the guide sizes it by max_input_len.",
        ),
    ),
    evidence=Evidence(
        "transformers: LlavaNextForConditionalGeneration, LlavaNextProcessor",
        truth="llava_next:LlavaNextOracle",
        acceptance=Acceptance(MERLION, WHICH_CITY, ("singapore",)),
    ),
)
