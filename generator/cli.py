"""gen-repo writes a complete Triton model repository for a multimodal model, and serves, checks and asks it.

  gen-repo --model vila                        from the spec and the guide's default folders
  gen-repo --model llava --hf-model-dir D --visual-engine-dir V --llm-engine-dir L
  gen-repo --model vila --hf-model-dir D --runtime torch      the same repository without engines, on CPU or GPU

Exit codes: 0 fine (warnings may be printed), 1 findings that forbid it, 2 wrong usage, 3 something is missing on this
machine, 4 the operation would run code from a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from generator import __version__, commands
from generator.arguments import bench, generation, port, positive, verify, vision_build
from generator.findings import EXIT_OK, Refused

Command = Callable[[argparse.Namespace], int]


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="gen-repo", description=__doc__, formatter_class=formatter)
    parser.add_argument("--version", action="version", version=f"gen-repo {__version__}")
    generation(parser)
    others = parser.add_subparsers(dest="command", metavar="COMMAND", title="other commands")

    listing = others.add_parser("list", help="models, variants and what they take")
    listing.add_argument("--json", action="store_true", help="print them as JSON")
    listing.set_defaults(run=commands.list_models)

    check = others.add_parser("check", help="check a generated repository")
    check.add_argument("repository", type=Path)
    check.add_argument("--json", action="store_true", help="print findings as JSON")
    check.set_defaults(run=commands.check)

    doctor = others.add_parser("doctor", help="check whether this machine can serve a repository")
    doctor.add_argument("repository", type=Path)
    doctor.add_argument("--json", action="store_true", help="print findings as JSON")
    doctor.set_defaults(run=commands.doctor)

    vision = others.add_parser("build-vision", help="build the vision engine of a checkpoint")
    vision_build(vision)
    vision.set_defaults(run=commands.build_vision)

    serve = others.add_parser("serve", help="start Triton with a repository")
    serve.add_argument("repository", type=Path)
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all of this machine (default: %(default)s)"
    )
    serve.add_argument("--http-port", type=port, default=8000)
    serve.add_argument("--grpc-port", type=port, default=8001)
    serve.add_argument("--metrics-port", type=port, default=8002)
    restart_help = (
        "how often in a row it is started again when it or a Python step ends by itself (default: %(default)s)"
    )
    serve.add_argument("--restarts", type=int, default=3, metavar="N", help=restart_help)
    serve.set_defaults(run=commands.serve)

    ask = others.add_parser("ask", help="ask a running server about images or a video")
    ask.add_argument("--url", default="localhost:8001", help="gRPC address (default: localhost:8001)")
    ask.add_argument("--model", metavar="NAME", help="model to ask (default: ensemble; with --stream the front)")
    ask.add_argument(
        "--image",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="JPEG, PNG or WebP; repeatable",
    )
    ask.add_argument("--video", action="append", default=[], type=Path, metavar="FILE", help="a video file")
    ask.add_argument("--pdf", type=Path, metavar="FILE", help="a PDF, asked about page by page")
    ask.add_argument("--text", help="left out for a model that reads images only")
    ask.add_argument("--output", default="text_output", metavar="NAME", help="output to print (default: text_output)")
    ask.add_argument("--stream", action="store_true", help="print the answer as it comes")
    ask.add_argument(
        "--max-tokens", type=positive, metavar="N", help="length of the answer (default: the repository's)"
    )
    ask.add_argument("--temperature", type=float, metavar="T", help="for sampling; above 0 (default: greedy)")
    ask.add_argument("--times", action="store_true", help="print the time each step took")
    ask.set_defaults(run=commands.ask)

    demo = others.add_parser("demo", help="serve a small trained model that comes with gen-repo, and ask it")
    demo.add_argument("--model", choices=("vila", "llava"), default="vila", help="default: vila")
    demo.add_argument("--keep", action="store_true", help="let the server run until Ctrl-C; print how to ask it")
    demo.set_defaults(run=commands.demo)

    truth = others.add_parser("verify", help="compare a repository with Hugging Face, stage by stage")
    verify(truth)
    truth.set_defaults(run=commands.verify)

    openai = others.add_parser("openai", help="an OpenAI-compatible gateway and a page to try it")
    openai.add_argument("repository", metavar="REPO-or-URL", help="a repository, or host:port of a server's gRPC")
    openai.add_argument("--url", metavar="HOST:PORT", help="a server that has REPO loaded (default: start one)")
    openai.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    openai.add_argument("--port", type=port, default=9000, help="port to listen on (default: 9000)")
    openai.add_argument("--served-model-name", metavar="NAME", help="what clients call the model (default: variant)")
    openai.add_argument("--max-body", type=positive, default=64, metavar="MIB", help="largest request (default: 64)")
    openai.add_argument("--restarts", type=int, default=3, metavar="N", help=restart_help)
    openai.set_defaults(run=commands.openai)

    benchmark = others.add_parser("bench", help="load a server with perf_analyzer, step by step times")
    bench(benchmark)
    benchmark.set_defaults(run=commands.bench)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code; findings go to stderr, or to stdout as JSON with --json."""
    arguments = _parser().parse_args(argv)
    command: Command = getattr(arguments, "run", commands.generate)
    try:
        code = command(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except Refused as refused:
        if getattr(arguments, "json", False):
            print(json.dumps({"findings": [f.as_dict() for f in refused.findings]}, indent=2, ensure_ascii=False))
        else:
            commands.show(refused.findings)
        return refused.exit_code
    except KeyboardInterrupt:
        return 130
