"""How much memory a repository needs, term by term in bytes, and the numbers that flags and limits are made of.

Terms that no file states are estimates and say so: activations of an engine are known only to the TensorRT that
loads it, and what a CUDA context takes only to the driver. They are meant to be on the safe side.
"""

from __future__ import annotations

from dataclasses import dataclass

from generator.facts.gather import Facts
from generator.plan import Plan
from generator.routes import FEATURES, TABLE
from generator.sizes import Sizes
from generator.spec import Variant

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
# Of one weight; groups of 128 weights have a scale each in int4_awq.
QUANTIZED_BYTES = {"int8_wo": 1.0, "int4_wo": 0.5, "int4_awq": 0.52, "fp8": 1.0, "smoothquant": 1.0}
DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
PIXEL_BYTES = {**DTYPE_BYTES, "uint8": 1}
BUILD_NUM_TOKENS = 8192  # trtllm-build's default --max_num_tokens, 0.12 to 1.2
PREPROCESSING_INSTANCES = 2
DECODING_THREADS = 8  # of one instance at most: MOST in preprocessing's workers.py; fewer where there are fewer cores
DECODED_BYTES = 4  # of a pixel of mode RGB in Pillow

# Estimates.
CONTEXT = 700 * MIB  # CUDA context and loaded kernels of one process: 685 MiB measured with cuBLAS on an H100
DRIVER = 500 * MIB  # 480 MiB measured on an H100
RANK_HOST = 4 * GIB  # a server process with TensorRT-LLM in it
STEP_HOST = GIB  # a Python step with numpy, or with torch on a GPU
PINNED_POOL = 256 * MIB  # Triton's default
# Of a pixel that is being decoded, besides: 12 measured for WebP, 8 for JPEG in CMYK, 6 for a progressive one; 3.2 for
# each of twelve frames of a video (H.264 with 16 reference frames, MPEG-4, Motion JPEG).
IMAGE_DECODING_BYTES, FRAME_DECODING_BYTES = 12, 4
SHM_REGION = MIB  # what a Python step's region starts with (--shm-default-byte-size)
CALLS_OF_ROWS = 5  # of the Python vision step on a GPU: two being computed, one being sent, two that wait for it
SHM_RANK = 128 * MIB  # what MPI and NCCL share between the ranks of a node


@dataclass(frozen=True)
class Term:
    """One part of the memory: `how` is the arithmetic, or where the number is from."""

    name: str
    bytes: int
    how: str


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of one node, by place.

    Attributes:
        llm: on each GPU of the LLM. vision: on each GPU with a vision step, besides. Without the KV cache.
        kv_token_bytes: KV cache of one token on one GPU; 0 = not known. kv_least_bytes: what must fit: one longest
            request, or a full batch where the cache is not paged.
        kv_tokens: tokens in a full batch of longest requests.
        shm: in /dev/shm, by the Python steps and between the ranks. host: memory of the processes, /dev/shm included.
        cuda_pool: bytes of Triton's CUDA memory pool on each GPU with a vision step.
    """

    llm: tuple[Term, ...]
    vision: tuple[Term, ...]
    kv_token_bytes: int
    kv_least_bytes: int
    kv_tokens: int
    shm: tuple[Term, ...]
    host: tuple[Term, ...]
    cuda_pool: int

    @property
    def llm_bytes(self) -> int:
        return _sum(self.llm)

    @property
    def vision_bytes(self) -> int:
        return _sum(self.vision)

    @property
    def kv_bytes(self) -> int:
        """KV cache that a full batch of longest requests fills."""
        return self.kv_token_bytes * self.kv_tokens

    @property
    def gpu_bytes(self) -> int:
        """Of a GPU that has the LLM and the vision step, with the KV cache of a full batch."""
        return self.llm_bytes + self.vision_bytes + self.kv_bytes

    @property
    def shm_bytes(self) -> int:
        return _up(_sum(self.shm), 64 * MIB)

    @property
    def host_bytes(self) -> int:
        return _up(_sum(self.host), 256 * MIB)


def _sum(terms: tuple[Term, ...]) -> int:
    return sum(term.bytes for term in terms)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def human(size: int) -> str:
    """`size` bytes as people say it: 1.5 GiB."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def sizes(facts: Facts, variant: Variant, llm_dtype: str, quantized: str) -> Sizes:
    """Engine before checkpoint before spec; `quantized` is the LLM's --quantization."""
    llm, vision, checkpoint = facts.llm_engine, facts.vision_engine, facts.checkpoint
    kv_bytes = 1 if llm and llm.kv_quantization else DTYPE_BYTES[llm_dtype]
    return Sizes(
        llm=(llm and llm.size) or (checkpoint and checkpoint.llm_size) or variant.llm_size,
        llm_rank_bytes=(llm and llm.rank_bytes) or None,
        llm_num_tokens=(llm and llm.max_num_tokens) or BUILD_NUM_TOKENS,
        llm_value_bytes=QUANTIZED_BYTES.get(quantized, DTYPE_BYTES[llm_dtype]),
        kv_value_bytes=kv_bytes,
        tower=variant.tower,
        vision_bytes=(vision and vision.file.stat().st_size) or None,
    )


def make(plan: Plan) -> MemoryPlan:
    """The memory plan of a plan, pure arithmetic."""
    on_gpu = plan.runtime == "trtllm"
    limits = plan.limits
    table = limits.max_table_rows * plan.hidden_size * DTYPE_BYTES[plan.llm_dtype]
    pool = max(64 * MIB, _up(2 * table * limits.max_batch_size, MIB))
    driver = Term("driver", DRIVER, "estimate")
    llm = (driver, *_llm(plan, table), _context("LLM")) if on_gpu else ()
    vision = (*_vision(plan), _pool(plan, pool)) if on_gpu else ()
    if on_gpu and not _in_llm_process(plan):
        vision += (_context("vision step"),)
    kv = _kv_token_bytes(plan)
    if plan.python_llm and on_gpu:  # the server of a C++ backend is the LLM's own process
        llm += (_context("server"),)
    tokens = limits.max_batch_size * _longest(plan)
    shm = _shm(plan, table)
    return MemoryPlan(
        llm=llm,
        vision=vision,
        kv_token_bytes=kv,
        kv_least_bytes=kv * (_longest(plan) if plan.route.paged_kv_cache else tokens),
        kv_tokens=tokens,
        shm=shm,
        host=(*_host(plan), Term("/dev/shm", _up(_sum(shm), 64 * MIB), "see above")),
        cuda_pool=pool,
    )


def _in_llm_process(plan: Plan) -> bool:
    """Whether the vision engine runs in the server's process, as the LLM beside it does."""
    beside = set(plan.launch.vision_gpus) <= set(plan.launch.llm_gpus)
    return plan.tensorrt_vision is not None and beside


def _kv_token_bytes(plan: Plan) -> int:
    """Keys and values of one token in all layers of a rank; every rank has at least one head."""
    llm = plan.sizes.llm
    if llm is None:
        return 0
    heads, layers = -(-llm.kv_heads // plan.tp), -(-llm.layers // plan.pp)
    return 2 * layers * heads * llm.head_size * plan.sizes.kv_value_bytes


def _longest(plan: Plan) -> int:
    """Tokens of one longest request; what a separate decoder attends to is kept like tokens of its own."""
    limits = plan.limits
    if not plan.spec.separate_decoder:
        return limits.max_seq_len
    attended = limits.max_table_rows if plan.spec.carries == FEATURES else limits.max_input_len
    return (limits.max_output_len or limits.max_seq_len) + attended


def _weights(plan: Plan) -> Term:
    known = plan.sizes
    if known.llm_rank_bytes:
        return Term("LLM weights", known.llm_rank_bytes, "largest rank file of the engine")
    if known.llm is None:
        return Term("LLM weights", 0, "not known until there is an engine")
    # Quantization leaves the two embeddings as they are.
    kept = min(2 * plan.vocab_size * plan.hidden_size, known.llm.parameters)
    each, as_is = known.llm_value_bytes, DTYPE_BYTES[plan.llm_dtype]
    total = int((known.llm.parameters - kept) * each) + kept * as_is
    how = f"{known.llm.parameters} parameters x {as_is} bytes / {plan.world_size} rank(s)"
    if each != as_is:
        how = f"({known.llm.parameters - kept} x {each} + {kept} x {as_is} bytes) / {plan.world_size} rank(s)"
    return Term("LLM weights", total // plan.world_size, how)


def _llm(plan: Plan, table: int) -> tuple[Term, ...]:
    known, batch, each = plan.sizes, plan.limits.max_batch_size, DTYPE_BYTES[plan.llm_dtype]
    inner = known.llm.intermediate_size if known.llm else 4 * plan.hidden_size
    width = 2 * inner // plan.tp + 4 * plan.hidden_size
    how = f"estimate: {known.llm_num_tokens} tokens x (2 x {inner} / tp {plan.tp} + 4 x {plan.hidden_size}) x {each}"
    return (
        _weights(plan),
        Term("LLM activations", known.llm_num_tokens * width * each, how),
        Term(
            "LLM prompt table" if plan.spec.carries == TABLE else "encoder features",
            table * batch,
            f"{batch} requests x {plan.limits.max_table_rows} rows x {plan.hidden_size} x {each} bytes",
        ),
    )


def _vision_weights(plan: Plan) -> Term:
    tower, each = plan.sizes.tower, DTYPE_BYTES[plan.vision_dtype]
    if plan.sizes.vision_bytes:
        return Term("vision weights", plan.sizes.vision_bytes, "the vision engine's file")
    if tower is None:
        return Term("vision weights", 0, "not known until there is an engine")
    return Term("vision weights", tower.parameters * each, f"{tower.parameters} parameters x {each} bytes")


def _vision_activations(plan: Plan) -> Term:
    """Of attention that keeps its scores; torch took 83 to 93 % of this on an H100 (four towers)."""
    tower, each = plan.sizes.tower, DTYPE_BYTES[plan.vision_dtype]
    if tower is None:
        return Term("vision activations", 0, "not known for this tower")
    images = plan.entries_per_call * plan.layout.get("num_frames", 1)
    a_token = 6 * tower.width + 2 * tower.heads * tower.tokens
    how = (
        f"estimate: {images} images x {tower.tokens} tokens x (6 x {tower.width} + "
        f"2 x {tower.heads} heads x {tower.tokens}) x {each} bytes"
    )
    return Term("vision activations", images * tower.tokens * a_token * each, how)


def entry_rows(plan: Plan) -> int:
    """Bytes of the rows of one entry of the vision engine's input, the largest there is."""
    return plan.rows_per_image * plan.hidden_size * DTYPE_BYTES[plan.llm_dtype]


def _vision(plan: Plan) -> tuple[Term, ...]:
    entries, each = plan.entries_per_call, PIXEL_BYTES[plan.pixel_dtype]
    rows = entries * entry_rows(plan)
    pixels = entries * plan.entry_elements * each
    times = 2 if plan.tensorrt_vision else CALLS_OF_ROWS
    how = f"{entries} x {plan.entry_elements} pixel values x {each} bytes, and their rows {times} times"
    terms = _vision_weights(plan), _vision_activations(plan), Term("vision buffers", pixels + times * rows, how)
    return (*terms, Term("vision cache", plan.vision_cache, "--vision-cache")) if plan.vision_cache else terms


def _pool(plan: Plan, pool: int) -> Term:
    how = (
        f"2 x {plan.limits.max_batch_size} requests x {plan.limits.max_table_rows} rows x {plan.hidden_size} x "
        f"{DTYPE_BYTES[plan.llm_dtype]} bytes, whole MiB, at least 64"
    )
    return Term("CUDA memory pool", pool, how)


def _context(owner: str) -> Term:
    return Term(f"CUDA context, {owner}", CONTEXT, "estimate: one process")


def _shm(plan: Plan, table: int) -> tuple[Term, ...]:
    """Each Python step copies its requests' host tensors into its region, and its answers' too."""
    limits, each = plan.limits, PIXEL_BYTES[plan.pixel_dtype]
    batch = limits.max_batch_size
    files = limits.max_images * int(getattr(limits, plan.spec.media.limits[0]))
    pixels = limits.max_images * plan.entries_per_image * plan.entry_elements * each
    tables = table if plan.runtime == "torch" else 0  # engines hand tables over on the GPU
    instances = 0 if plan.tensorrt_vision else len(plan.launch.vision_gpus)  # which are Python steps
    terms = [
        Term(
            "preprocessing",
            PREPROCESSING_INSTANCES * (SHM_REGION + batch * (files + pixels)),
            f"{PREPROCESSING_INSTANCES} instances x {batch} requests x ({files} bytes of files + {pixels} of pixels)",
        ),
        Term(
            "vision_encoder",
            instances * (SHM_REGION + batch * (pixels + tables)),
            f"{instances} instance(s) x {batch} requests x {pixels + tables} bytes",
        ),
        Term("postprocessing", SHM_REGION, "token ids and texts"),
    ]
    if plan.python_llm:
        terms.append(Term("tensorrt_llm", SHM_REGION + batch * tables, f"{batch} requests x {tables} bytes"))
    if plan.streaming:
        each_request = files + 2 * pixels + 2 * tables
        terms.append(
            Term("tensorrt_llm_bls", SHM_REGION + batch * each_request, f"{batch} requests x {each_request} bytes")
        )
    if plan.launch.world_size > 1:
        ranks = len(plan.launch.llm_gpus)
        terms.append(Term("MPI and NCCL", ranks * SHM_RANK, f"estimate: {ranks} ranks x {SHM_RANK} bytes"))
    return tuple(term for term in terms if term.bytes)


def _host(plan: Plan) -> tuple[Term, ...]:
    ranks = len(plan.launch.llm_gpus)
    loaded = ranks * _weights(plan).bytes + _vision_weights(plan).bytes
    steps = len(plan.roles) - 2 + PREPROCESSING_INSTANCES - 1 + (1 if plan.python_llm else 0)
    steps -= 1 if plan.tensorrt_vision else 0
    return (
        Term("engine files being loaded", loaded, f"{ranks} rank(s), and the vision engine"),
        Term("server processes", ranks * RANK_HOST, f"estimate: {ranks} x {RANK_HOST} bytes"),
        Term("Python steps", steps * STEP_HOST, f"estimate: {steps} x {STEP_HOST} bytes"),
        _decoded(plan),
        Term("pinned memory pool", PINNED_POOL, "Triton's default"),
    )


def _decoded(plan: Plan) -> Term:
    """Each instance of preprocessing answers one request at a time, keeps all its images until their pixels are made,
    and decodes several of them at once; of a video all frames that the model looks at."""
    limits, noun = plan.limits, plan.spec.media.noun
    images = plan.request_rows * limits.max_images
    threads = min(images, DECODING_THREADS)
    pixels, decoding = limits.max_image_pixels, IMAGE_DECODING_BYTES
    if "max_frame_pixels" in plan.spec.media.limits:
        pixels, decoding = limits.max_frame_pixels * int(plan.layout["num_frames"]), FRAME_DECODING_BYTES
    each = images * DECODED_BYTES + threads * decoding
    how = (
        f"{PREPROCESSING_INSTANCES} instances x ({images} {noun}(s) x {DECODED_BYTES} + {threads} at once x "
        f"{decoding} bytes) x {pixels} pixels"
    )
    return Term(f"decoded {noun}s", PREPROCESSING_INSTANCES * each * pixels, how)
