"""Tensors between the steps and the wiring of the ensemble: one table, from which configs and maps are made.

Names of the steps' own tensors are the LLM contract's where they end there. In the ensemble a step's output is called
`_<name>`, so that it cannot collide with a public tensor of the same name; what leaves the ensemble as well
has its public name alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from generator import routes, vision_backend
from generator.contract import Tensor, with_types
from generator.plan import FRONT, LLM_RESPONSES, TRITON_TYPE, Plan
from generator.vision_backend import TensorrtVision

# Public tensors that the official ensemble does not have; see the README for their meaning.
ADDED_INPUTS = (
    Tensor("image_encoded_input", "STRING", (-1,), optional=True),
    Tensor("video_encoded_input", "STRING", (-1,), optional=True),
    Tensor("apply_chat_template", "BOOL", (1,), optional=True),
)
INPUT_TOKENS = Tensor("input_tokens", "INT32", (1,))  # of the prompt, image tokens included
CACHE_SALT = Tensor("cache_salt", "STRING", (1,), optional=True)  # with --client-cache-ids

# Public name -> LLM input, for values that need no preparation.
DIRECT = {
    "temperature": "temperature",
    "top_k": "runtime_top_k",
    "top_p": "runtime_top_p",
    "length_penalty": "len_penalty",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "beam_width": "beam_width",
    "return_log_probs": "return_log_probs",
    "return_context_logits": "return_context_logits",
    "return_generation_logits": "return_generation_logits",
    "stream": "streaming",
}

# LLM outputs that go to the client as they are.
PASSED_ON = (
    "cum_log_probs",
    "output_log_probs",
    "context_logits",
    "generation_logits",
    "batch_index",
    "sequence_index",
)

STOP_WORDS = "stop_words"  # public; preprocessing makes token ids of them, postprocessing cuts the text at them

# The vision step makes the table; the 0.12 ensemble took it from the client instead.
NOT_PUBLIC = ("prompt_embedding_table", "prompt_vocab_size")

# Of the contract from 0.15.0 on; a step of our own needs them in every release.
FEATURE_INPUTS = (
    Tensor(routes.FEATURES, "${encoder_input_features_data_type}", (-1, -1), optional=True, ragged=True),
    Tensor(routes.LENGTHS, "INT32", (1,), optional=True, reshape=()),
)


@dataclass(frozen=True)
class Model:
    """One Triton model of the repository: what its config.pbtxt declares."""

    role: str
    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Link:
    """One entry of a step's input_map or output_map: model tensor -> ensemble tensor."""

    tensor: str
    ensemble_tensor: str


@dataclass(frozen=True)
class EnsembleStep:
    model_name: str
    inputs: tuple[Link, ...]
    outputs: tuple[Link, ...]


def llm_types(plan: Plan) -> dict[str, str]:
    """Types of the LLM step that the release leaves open, and of the table, which carries the LLM's dtype always:
    the backend takes the type that arrives, whatever the official template declares."""
    return {
        "logits_datatype": "FP32",
        "encoder_input_features_data_type": TRITON_TYPE[plan.llm_dtype],
        "prompt_embedding_table_data_type": TRITON_TYPE[plan.llm_dtype],
        "prompt_embedding_table": TRITON_TYPE[plan.llm_dtype],
    }


def llm(plan: Plan) -> Model:
    """The tensorrt_llm step: everything that the backend of the release declares, on every route."""
    types = llm_types(plan)
    inputs = dict(plan.contract.inputs)
    if plan.spec.carries == routes.FEATURES:
        inputs = {tensor.name: tensor for tensor in FEATURE_INPUTS} | inputs
    return Model(
        "tensorrt_llm",
        plan.names["tensorrt_llm"],
        with_types(inputs, types),
        with_types(plan.contract.outputs, types),
    )


def public_inputs(plan: Plan) -> tuple[Tensor, ...]:
    """Inputs of the ensemble: the official ones of all releases, in this release's ranks, and ours.

    All but the text are optional, the text of a model without a prompt too: `max_tokens` has a default here.
    """
    official = [t for t in with_types(plan.contract.public_inputs, llm_types(plan)) if t.name not in NOT_PUBLIC]
    relaxed = [replace(t, optional=t.name != "text_input" or not plan.spec.prompt.text) for t in official]
    widened = [_any_size(t) if t.name in ("image_input", "image_url_input") else t for t in relaxed]
    return (*widened, *ADDED_INPUTS, *((CACHE_SALT,) if plan.client_cache_ids else ()))


def _any_size(tensor: Tensor) -> Tensor:
    """The same rank with every size open: 0.12 fixed 3 x 224 x 224, and URLs to one."""
    return replace(tensor, dims=(-1,) * len(tensor.dims))


def public_outputs(plan: Plan) -> tuple[Tensor, ...]:
    known = plan.contract.outputs
    outputs = with_types(plan.contract.public_outputs, llm_types(plan))
    passed = (t for t in outputs if t.name in PASSED_ON and t.name in known)
    return (*_texts(plan), INPUT_TOKENS, *passed)


def _texts(plan: Plan) -> tuple[Tensor, ...]:
    """What postprocessing makes, per beam: the answer's text, what else the model's texts hold, and its length.

    `output_tokens` is ours, as `input_tokens` is: a client that accounts for tokens cannot count them in the text.
    """
    texts = (Tensor(name, "STRING", (-1,)) for name in ("text_output", *plan.spec.post.outputs))
    return (*texts, Tensor("output_tokens", "INT32", (-1,)))


def preprocessing(plan: Plan) -> Model:
    inputs = tuple(t for t in public_inputs(plan) if t.name not in DIRECT)
    known = plan.contract.inputs
    produced = [
        "input_ids",
        "input_lengths",
        "request_output_len",
        "end_id",
        "pad_id",
        "stop_words_list",
        "bad_words_list",
        "embedding_bias",
        plan.contract.min_tokens,
        plan.contract.seed,
    ]
    if "prompt_table_extra_ids" in known:
        produced.append("prompt_table_extra_ids")
    to_llm = tuple(replace(plain(known[name]), optional=False) for name in produced)
    return Model("preprocessing", plan.names["preprocessing"], inputs, (*_vision_inputs(plan, ragged=False), *to_llm))


def _vision_inputs(plan: Plan, *, ragged: bool) -> tuple[Tensor, ...]:
    pixels = "UINT8" if plan.pixel_form == "uint8" else TRITON_TYPE[plan.vision_dtype]
    return (
        Tensor("pixel_values", pixels, (-1, *plan.entry_shape), ragged=ragged),
        Tensor("num_images", "INT32", (1,)),
        Tensor("num_rows", "INT32", (1,)),
    )


def vision_encoder(plan: Plan) -> Model:
    """The vision step; an engine that the TensorRT backend runs has tensors by its own names."""
    if plan.tensorrt_vision:
        return _tensorrt_vision(plan, plan.tensorrt_vision)
    rows = Tensor(plan.spec.carries, TRITON_TYPE[plan.llm_dtype], (-1, -1))
    lengths = (Tensor(routes.LENGTHS, "INT32", (1,)),) if plan.spec.carries == routes.FEATURES else ()
    inputs = _vision_inputs(plan, ragged=True)
    return Model("vision_encoder", plan.names["vision_encoder"], inputs, (rows, *lengths))


def _tensorrt_vision(plan: Plan, vision: TensorrtVision) -> Model:
    """What the engine takes and gives; where that is one image, without the axis that others have several on."""
    [pixels] = (t for t in _vision_inputs(plan, ragged=False) if t.name == vision_backend.PIXELS)
    pixels = replace(pixels, name=vision.input)
    if vision.one_image:
        pixels = replace(pixels, dims=(1, *plan.entry_shape), reshape=plan.entry_shape)
    rows = Tensor(vision.output, TRITON_TYPE[plan.llm_dtype], (-1, -1))
    return Model("vision_encoder", plan.names["vision_encoder"], (pixels,), (rows,))


def vision_names(plan: Plan) -> dict[str, str]:
    """What the vision step calls its tensors -> what the steps before and behind call them."""
    if plan.tensorrt_vision:
        return {plan.tensorrt_vision.input: vision_backend.PIXELS, plan.tensorrt_vision.output: plan.spec.carries}
    step = vision_encoder(plan)
    return {t.name: t.name for t in (*step.inputs, *step.outputs)}


def postprocessing(plan: Plan) -> Model:
    outputs = plan.contract.outputs
    words = next(t for t in public_inputs(plan) if t.name == STOP_WORDS)
    return Model(
        "postprocessing",
        plan.names["postprocessing"],
        (outputs["output_ids"], outputs["sequence_length"], words),
        _texts(plan),
    )


def ensemble(plan: Plan) -> Model:
    """What comes from before a decoupled step cannot leave the ensemble beside what that one sends."""
    outputs = tuple(t for t in public_outputs(plan) if not (plan.streaming and t == INPUT_TOKENS))
    return Model("ensemble", plan.names["ensemble"], public_inputs(plan), outputs)


def front(plan: Plan) -> Model:
    """The decoupled front: the ensemble's public face over the same steps, and the way back of the LLM's outputs.

    A request holds the one or the other: all inputs are optional for Triton.
    """
    back = (replace(plain(t), name=f"_{t.name}") for t in returned(plan))
    inputs = tuple(replace(t, optional=True) for t in (*public_inputs(plan), *back))
    return Model(FRONT, plan.names[FRONT], inputs, public_outputs(plan))


def returned(plan: Plan) -> tuple[Tensor, ...]:
    """The LLM's outputs that the front needs of each of its responses; it numbers rows itself."""
    passed = {t.name for t in public_outputs(plan) if t.name in PASSED_ON} - {"batch_index"}
    needed = {t.name for t in postprocessing(plan).inputs} | passed
    return tuple(t for t in llm(plan).outputs if t.name in needed)


def plain(tensor: Tensor) -> Tensor:
    """What crosses the wire; a reshape or a ragged batch is the consumer's."""
    return replace(tensor, reshape=None, ragged=False)


def llm_responses(plan: Plan) -> Model:
    """The ensemble that sends each response of the LLM to the front; its output is never sent."""
    inputs = tuple(plain(t) for t in llm(plan).inputs if t.name in _fed(plan))
    unsent = tuple(t for t in public_outputs(plan) if t.name == "text_output")
    return Model(LLM_RESPONSES, plan.names[LLM_RESPONSES], inputs, unsent)


def _fed(plan: Plan) -> set[str]:
    """The LLM's inputs that a request fills: what preprocessing and the vision step make, and the client's own."""
    made = {t.name for t in preprocessing(plan).outputs} | set(vision_names(plan).values())
    return made | set(DIRECT.values())


def models(plan: Plan) -> dict[str, Model]:
    """All models of the repository by role."""
    made = (ensemble, preprocessing, vision_encoder, llm, postprocessing)
    found = {model.role: model for model in (make(plan) for make in made)}
    return found | ({FRONT: front(plan), LLM_RESPONSES: llm_responses(plan)} if plan.streaming else {})


def handed_on(plan: Plan) -> tuple[Tensor, ...]:
    """The outputs of preprocessing that a later step takes: an engine by itself takes no counts."""
    unused = {t.name for t in _vision_inputs(plan, ragged=False)} - set(vision_names(plan).values())
    return tuple(t for t in preprocessing(plan).outputs if t.name not in unused)


def _internal(tensors: tuple[Tensor, ...], public: dict[str, str] | None = None) -> tuple[Link, ...]:
    """Between steps; `public` are those that leave the ensemble as well, by the names that they leave it under."""
    return tuple(Link(t.name, (public or {}).get(t.name, f"_{t.name}")) for t in tensors)


def llm_responses_steps(plan: Plan) -> tuple[EnsembleStep, ...]:
    back = returned(plan)
    fed = tuple(Link(t.name, t.name) for t in llm_responses(plan).inputs)
    return (
        EnsembleStep(plan.names["tensorrt_llm"], fed, _internal(back)),
        EnsembleStep(
            plan.names[FRONT],
            tuple(Link(f"_{t.name}", f"_{t.name}") for t in back),
            (Link("text_output", "text_output"),),
        ),
    )


def ensemble_steps(plan: Plan) -> tuple[EnsembleStep, ...]:
    """The ensemble's steps in data-flow order. Every step input has one producer: the client or an earlier step."""
    parts = models(plan)
    pre, vision, llm_step, post = (
        parts[role] for role in ("preprocessing", "vision_encoder", "tensorrt_llm", "postprocessing")
    )
    made, names = _fed(plan) - set(DIRECT.values()), vision_names(plan)
    counted = {} if plan.streaming else {"input_lengths": INPUT_TOKENS.name}
    llm_inputs = [*_internal(tuple(t for t in llm_step.inputs if t.name in made), counted)]
    llm_inputs += [Link(inner, public) for public, inner in DIRECT.items()]
    passed = [t.name for t in public_outputs(plan) if t.name in PASSED_ON]

    from_llm = tuple(t for t in post.inputs if t.name != STOP_WORDS)
    # Triton gives a step behind a decoupled one nothing but what that one sends: there the front cuts texts.
    words = () if plan.streaming else (Link(STOP_WORDS, STOP_WORDS),)
    return (
        EnsembleStep(pre.name, tuple(Link(t.name, t.name) for t in pre.inputs), _internal(handed_on(plan), counted)),
        EnsembleStep(
            vision.name,
            tuple(Link(t.name, f"_{names[t.name]}") for t in vision.inputs),
            tuple(Link(t.name, f"_{names[t.name]}") for t in vision.outputs),
        ),
        EnsembleStep(
            llm_step.name,
            tuple(llm_inputs),
            (*_internal(from_llm), *(Link(name, name) for name in passed)),
        ),
        EnsembleStep(post.name, (*_internal(from_llm), *words), tuple(Link(t.name, t.name) for t in post.outputs)),
    )
