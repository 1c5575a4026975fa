"""Arguments of the command line: what they may hold, and those of generating a repository."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from generator import quantization
from generator.plan import FRONT, LLM_RESPONSES, ROLES


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"must be 0 to 65535 (0: any free one), not {value}")
    return value


def _pair(text: str) -> tuple[str, str]:
    host, sign, container = text.partition("=")
    if not sign or not host or not container:
        raise argparse.ArgumentTypeError(f"must be HOST=CONTAINER, not {text!r}")
    return host, container


def _setting(text: str) -> tuple[str, str, str]:
    name, sign, value = text.partition("=")
    step, dot, parameter = name.partition(".")
    if not sign or not dot or not parameter:
        raise argparse.ArgumentTypeError(f"must be MODEL.PARAMETER=VALUE, not {text!r}")
    return step, parameter, value


def _limit(text: str) -> tuple[str, int]:
    name, sign, value = text.partition("=")
    if not sign or not value.isascii() or not value.isdigit() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"must be NAME=N with N of at least 1, not {text!r}")
    return name, int(value)


def _name(text: str) -> str:
    if not text.isascii() or not text.replace("_", "").replace("-", "").isalnum():
        raise argparse.ArgumentTypeError(f"must consist of letters, digits, '_' and '-', not {text!r}")
    for role in (*ROLES, FRONT, LLM_RESPONSES):  # which a --name stands before
        if text == role or text.endswith(f"_{role}"):
            raise argparse.ArgumentTypeError(f"must not end as the names of the steps do ({role}), not {text!r}")
    return text


def _gpus(text: str) -> tuple[int, ...]:
    if not all(part.isascii() and part.isdigit() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be GPU numbers like 0,1, not {text!r}")
    return tuple(int(part) for part in text.split(","))


def _gibibytes(text: str) -> int:
    value = float(text)
    if not 1 <= value <= 65536:
        raise argparse.ArgumentTypeError(f"must be 1 to 65536 GiB, not {text}")
    return int(value * (1 << 30))


def _mebibytes(text: str) -> int:
    return positive(text) << 20


def _host(text: str) -> str:
    host = text.removeprefix("http://").removeprefix("https://")
    if not host or any(c in host for c in "/@?#\\ "):
        raise argparse.ArgumentTypeError(f"must be a host name, or http://HOST to allow plain http, not {text!r}")
    return text.removeprefix("https://")


def generation(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("where things are (default: the guide's folders below tmp/)")
    where.add_argument("--hf-model-dir", type=Path, metavar="D", help="the checkpoint")
    where.add_argument("--visual-engine-dir", type=Path, metavar="D", help="the vision engine and its config.json")
    where.add_argument("--llm-engine-dir", type=Path, metavar="D", help="the LLM engine and its config.json")
    where.add_argument("--tokenizer-dir", type=Path, metavar="D", help="the tokenizer, if not in the checkpoint")
    where.add_argument("--projector", type=Path, metavar="F", help="the vision side, if not in the checkpoint")
    where.add_argument("--header-font", type=Path, metavar="FILE", help="the font of questions drawn above images")
    where.add_argument("--output", type=Path, metavar="D", help="the repository (default: model_repos/MODEL)")
    what = parser.add_argument_group("what to write")
    what.add_argument("--model", metavar="NAME", help="a model or one of its variants, see `gen-repo list`")
    what.add_argument(
        "--runtime",
        choices=("trtllm", "torch"),
        default="trtllm",
        help="trtllm: TensorRT engines; torch: the checkpoint with torch and transformers (default: trtllm)",
    )
    what.add_argument(
        "--release",
        metavar="R",
        help="TensorRT-LLM release, or month of the Triton container (default: the engine's, else the newest)",
    )
    what.add_argument("--route", metavar="R", help="how the LLM is run, where a model has several ways (see `list`)")
    what.add_argument(
        "--quantization",
        choices=quantization.NAMES,
        metavar="Q",
        help=f"of the LLM: {', '.join(quantization.NAMES)} (default: the engine's, else none)",
    )
    what.add_argument("--tp", type=positive, metavar="N", help="GPUs that share each layer of the LLM (default: 1)")
    what.add_argument("--pp", type=positive, metavar="N", help="groups of layers of the LLM on GPUs of their own")
    what.add_argument("--max-batch-size", type=positive, metavar="N", help="requests that run together")
    what.add_argument("--max-images", type=positive, metavar="N", help="images per prompt")
    what.add_argument(
        "--max-tokens", type=positive, metavar="N", help="answer length unless asked (default: the model's)"
    )
    what.add_argument("--streaming", action="store_true", help="decoupled LLM, and the streaming front model")
    what.add_argument("--kv-cache-reuse", action="store_true", help="share KV blocks between equal prompts")
    what.add_argument("--client-cache-ids", action="store_true", help="let clients keep their KV blocks apart")
    what.add_argument(
        "--vision-backend",
        choices=("python", "tensorrt"),
        default="python",
        help="runs the vision engine: a Python step, or Triton's TensorRT backend (default: python)",
    )
    what.add_argument(
        "--vision-cache", type=_mebibytes, metavar="MIB", help="keep the rows of recent images, on each vision GPU"
    )
    what.add_argument(
        "--pixels",
        choices=("float", "uint8"),
        help="what crosses to the vision encoder: normalised values, or 8-bit levels, which it normalises itself "
        "(default: what the vision engine takes)",
    )
    what.add_argument(
        "--decode-scale",
        action="store_true",
        help="decode large JPEGs at 1/2, 1/4 or 1/8 of their size: faster, but pixels are no longer Hugging Face's",
    )
    what.add_argument(
        "--tokenizer",
        choices=("hf", "checkpoint"),
        default="hf",
        help="as the installed transformers tokenizes, or the checkpoint's tokenizer.json as it is (default: hf)",
    )
    what.add_argument(
        "--frame-order",
        choices=("rgb", "bgr"),
        help="colours of video frames, as the model was trained (default: rgb; NVIDIA's runner feeds bgr)",
    )
    what.add_argument(
        "--limit",
        action="append",
        default=[],
        type=_limit,
        metavar="NAME=N",
        help="refuse larger requests, e.g. image-pixels=16000000 or input-len=1024; repeatable",
    )
    what.add_argument(
        "--image-host",
        action="append",
        default=[],
        type=_host,
        metavar="HOST",
        help="allow image URLs of this host over https (http://HOST: over http); repeatable",
    )
    what.add_argument("--name", type=_name, metavar="P", help="name of the ensemble and prefix of the steps")
    what.add_argument(
        "--path-map",
        action="append",
        default=[],
        type=_pair,
        metavar="HOST=CONTAINER",
        help="rewrite paths to how the server sees them; repeatable",
    )
    what.add_argument(
        "--set",
        action="append",
        default=[],
        type=_setting,
        metavar="MODEL.PARAMETER=VALUE",
        help="set a backend parameter, e.g. tensorrt_llm.kv_cache_free_gpu_mem_fraction=0.5; repeatable",
    )
    machines = parser.add_argument_group("machines")
    machines.add_argument(
        "--launch-mode",
        choices=("leader", "orchestrator"),
        default="leader",
        help="several ranks: one server each, the first answers; or one server that starts them (default: leader)",
    )
    machines.add_argument("--nodes", type=positive, default=1, metavar="N", help="machines that share the ranks (1)")
    machines.add_argument(
        "--vision-gpus",
        type=_gpus,
        default=(0,),
        metavar="LIST",
        help="GPUs with an instance of the vision step each, e.g. 0,1 (0)",
    )
    machines.add_argument(
        "--gpu-memory",
        type=_gibibytes,
        metavar="GIB",
        help="memory of one GPU: computes the KV cache's share, and refuses what does not fit",
    )
    machines.add_argument("--deploy", choices=("kubernetes",), help="write manifests as well: kubernetes.yaml")
    machines.add_argument(
        "--container", metavar="IMAGE", help="container image for --deploy (default: NVIDIA's of the release)"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--explain", action="store_true", help="print the plan, write nothing")
    how.add_argument("--json", action="store_true", help="print findings and result as JSON")
    how.add_argument("--force", action="store_true", help="replace a repository of ours that differs")


def vision_build(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gen-repo build-vision`."""
    parser.add_argument("--model", required=True, metavar="NAME", help="a model or one of its variants")
    parser.add_argument("--hf-model-dir", required=True, type=Path, metavar="D", help="the checkpoint")
    parser.add_argument("--projector", type=Path, metavar="F", help="the vision side, if not in the checkpoint")
    parser.add_argument("--output", required=True, type=Path, metavar="D", help="the engine's folder")
    parser.add_argument("--onnx-only", action="store_true", help="stop at the ONNX file, which needs no GPU")
    parser.add_argument(
        "--vision-backend",
        choices=("python", "tensorrt"),
        default="python",
        help="what will run the engine; for tensorrt it takes whole requests and gives their tables (default: python)",
    )
    parser.add_argument(
        "--max-batch-size", type=positive, metavar="N", help="images (tiles, clips) of one call; for tensorrt, requests"
    )
    parser.add_argument("--max-images", type=positive, metavar="N", help="for tensorrt: images (clips) of one request")
    parser.add_argument(
        "--precision", choices=("fp16", "bf16", "fp32"), help="of weights and rows (default: the model's)"
    )
    parser.add_argument(
        "--table-precision", choices=("fp16", "bf16", "fp32"), help="for tensorrt: of tables (default: the LLM's)"
    )
    parser.add_argument(
        "--pixels",
        choices=("float", "uint8"),
        default="float",
        help="what the engine takes: normalised values, or 8-bit levels, which it normalises itself (default: float)",
    )
    parser.add_argument(
        "--optimization-level", type=int, choices=range(6), help="TensorRT's: lower builds faster (default: its own)"
    )
    parser.add_argument("--json", action="store_true", help="print findings and the file as JSON")


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    sizes = []
    for part in text.split(","):
        width, sign, height = part.partition("x")
        if not sign or not (width.isdecimal() and height.isdecimal()) or 0 in (int(width), int(height)):
            raise argparse.ArgumentTypeError(f"must be sizes like 640x480,1920x1080, not {text!r}")
        sizes.append((int(width), int(height)))
    return tuple(sizes)


def _numbers(least: int) -> Callable[[str], tuple[int, ...]]:
    def numbers(text: str) -> tuple[int, ...]:
        parts = text.split(",")
        if not all(part.isascii() and part.isdigit() and int(part) >= least for part in parts):
            raise argparse.ArgumentTypeError(f"must be numbers of at least {least} like 1,4,16, not {text!r}")
        return tuple(int(part) for part in parts)

    return numbers


def bench(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gen-repo bench`."""
    parser.add_argument("repository", metavar="REPO-or-URL", help="a repository, or host:port of a server's gRPC")
    parser.add_argument("--url", metavar="HOST:PORT", help="a server that has REPO loaded (default: start one)")
    parser.add_argument("--model", metavar="NAME", help="model to ask (default: the ensemble; with --stream the front)")
    parser.add_argument("--stream", action="store_true", help="streamed answers: times of first and further tokens")
    sweep = parser.add_argument_group("what to send: lists, of which every combination is measured")
    sweep.add_argument(
        "--concurrency", type=_numbers(1), default=(1, 4), metavar="N,...", help="clients (default: 1,4)"
    )
    sweep.add_argument(
        "--image-size", type=_sizes, default=((640, 480),), metavar="WxH,...", help="pixels (default: 640x480)"
    )
    sweep.add_argument("--images", type=_numbers(0), default=(1,), metavar="N,...", help="per request (default: 1)")
    sweep.add_argument(
        "--prompt-words",
        type=_numbers(0),
        default=(16,),
        metavar="N,...",
        help="words of the text; 0: none (default: 16)",
    )
    sweep.add_argument(
        "--output-tokens", type=_numbers(1), default=(16,), metavar="N,...", help="of each answer (default: 16)"
    )
    sweep.add_argument(
        "--image",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="scaled and sent instead of made pictures",
    )
    sweep.add_argument("--video", action="append", default=[], type=Path, metavar="FILE", help="sent instead of images")
    parser.add_argument("--requests", type=positive, default=50, metavar="N", help="measured per line (default: 50)")
    parser.add_argument("--distinct", type=positive, default=8, metavar="N", help="different requests (default: 8)")
    parser.add_argument(
        "--output", type=Path, default=Path("bench-results"), metavar="D", help="(default: bench-results)"
    )
    parser.add_argument("--json", action="store_true", help="print results as JSON")


def verify(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gen-repo verify`."""
    parser.add_argument("repository", type=Path)
    parser.add_argument("--hf-model-dir", type=Path, metavar="D", help="the checkpoint to compare with")
    parser.add_argument("--projector", type=Path, metavar="F", help="the vision side, if not in the checkpoint")
    parser.add_argument("--tokenizer-dir", type=Path, metavar="D", help="the tokenizer, if not in the checkpoint")
    parser.add_argument("--header-font", type=Path, metavar="FILE", help="the font of questions drawn above images")
    parser.add_argument("--url", metavar="HOST:PORT", help="gRPC of a server that has it loaded (default: start one)")
    asked = parser.add_argument_group("what to ask (default: drawn pictures, in all the ways that the model takes any)")
    asked.add_argument(
        "--image", action="append", default=[], type=Path, metavar="FILE", help="JPEG, PNG or WebP; repeatable"
    )
    asked.add_argument("--video", action="append", default=[], type=Path, metavar="FILE", help="a video file")
    asked.add_argument("--text", help="the question (default: a usual one of the model)")
    asked.add_argument(
        "--max-tokens", type=positive, default=16, metavar="N", help="of each greedy answer (default: 16)"
    )
    parser.add_argument(
        "--acceptance",
        action="store_true",
        help="ask what TensorRT-LLM's example asks about --image, and compare with the answer that it expects",
    )
    parser.add_argument("--json", action="store_true", help="print stages and verdicts as JSON")
