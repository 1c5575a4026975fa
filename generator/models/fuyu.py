"""Fuyu: no vision tower. Patches of 30 x 30 pixels go through one linear layer; every line of them ends in a newline.

Sources: TensorRT-LLM `multimodal_builder.py` (build_fuyu_engine); adept/fuyu-8b for sizes; transformers'
FuyuImageProcessor and FuyuProcessor for pixels and ids.
"""

from generator.sizes import FUYU_PATCHES, PERSIMMON_8B
from generator.spec import (
    Acceptance,
    BuildSpec,
    CheckpointSpec,
    Conversation,
    Evidence,
    LayoutSpec,
    ModelSpec,
    Piece,
    PixelSpec,
    PromptSpec,
    Tokens,
    TorchSpec,
    Variant,
)

PATCH = 30
HEIGHT, WIDTH = 1080, 1920
LINES, COLUMNS = HEIGHT // PATCH, WIDTH // PATCH

SPEC = ModelSpec(
    name="fuyu",
    title="Fuyu",
    variants=(
        Variant(
            name="fuyu-8b",
            source="adept/fuyu-8b",
            hidden_size=4096,
            llm_size=PERSIMMON_8B,
            tower=FUYU_PATCHES,
            vocab_size=262144,
            max_positions=16384,
            rows_per_image=LINES * COLUMNS,
            pixels=PixelSpec(
                steps=(),
                shape=(1, -1, 3 * PATCH**2),
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
                resample=2,
            ),
            conversation=Conversation("none", "{text}"),
            tokens=Tokens(bos=1, end=71013, pad=0),
        ),
    ),
    engine_model_types=("fuyu",),
    checkpoint_model_types=("fuyu",),
    image_mark="|SPEAKER|",  # stands for a patch: in the text it would be taken for one
    image_token=False,
    image_prefix="",
    prompt=PromptSpec(
        "sequence_prompt", after=(Piece(token="<s>", token_id=1), Piece(text="{text}<0x04>", special_tokens=False))
    ),
    layout=LayoutSpec(
        "patch_grid",
        {
            "patch": PATCH,
            "max_height": HEIGHT,
            "max_width": WIDTH,
            "padding_level": 1,  # on the scale of 0 to 255, before rescaling: transformers pads with 1.0 there
            "newline_id": 71019,
        },
        largest=lambda settings: (1, LINES * (COLUMNS + 1)),
        smallest=lambda settings: (1, 2),  # one patch and its newline
        from_tokenizer={"newline_id": "|NEWLINE|"},
    ),
    checkpoint=CheckpointSpec(llm=""),
    image_required=True,
    torch=TorchSpec("hf_fuyu"),
    build=BuildSpec(
        converter="gpt",
        vision_arguments="--model_type fuyu",
        convert_arguments="--gpt_variant persimmon",
        fused_mlp=True,
        untried=dict.fromkeys(("int8_wo", "int4_wo"), "its converter offers it, the guide never builds it"),
        notes=("The guide's 2048 rows and prompt tokens are too few for a full image: 2304 patches, 36 newlines.",),
    ),
    evidence=Evidence(
        "transformers: FuyuForCausalLM, FuyuProcessor",
        truth="fuyu:FuyuOracle",
        acceptance=Acceptance(
            "skateboard.png of adept/fuyu-8b",
            "Answer the following VQAv2 question based on the image: How many people are in the image?\n",
            ("4",),
            exact=True,
        ),
    ),
)
