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
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from generator import __version__
from generator.arguments import bench, generation, positive, vision_build
from generator.findings import EXIT_ENVIRONMENT, EXIT_FINDINGS, EXIT_OK, EXIT_USAGE, Finding, Refused, error, has_errors

Command = Callable[[argparse.Namespace], int]


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="gen-repo", description=__doc__, formatter_class=formatter)
    parser.add_argument("--version", action="version", version=f"gen-repo {__version__}")
    generation(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="other commands")

    listing = commands.add_parser("list", help="models, variants and what they take")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=_list)

    check = commands.add_parser("check", help="check a generated repository")
    check.add_argument("repository", type=Path)
    check.add_argument("--json", action="store_true")
    check.set_defaults(run=_check)

    doctor = commands.add_parser("doctor", help="check whether this machine can serve a repository")
    doctor.add_argument("repository", type=Path)
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(run=_doctor)

    vision = commands.add_parser("build-vision", help="build the vision engine of a checkpoint")
    vision_build(vision)
    vision.set_defaults(run=_build_vision)

    serve = commands.add_parser("serve", help="start Triton with a repository")
    serve.add_argument("repository", type=Path)
    serve.add_argument("--http-port", type=positive, default=8000)
    serve.add_argument("--grpc-port", type=positive, default=8001)
    serve.add_argument("--metrics-port", type=positive, default=8002)
    restart_help = (
        "how often in a row it is started again when it or a Python step ends by itself (default: %(default)s)"
    )
    serve.add_argument("--restarts", type=int, default=3, metavar="N", help=restart_help)
    serve.set_defaults(run=_serve)

    ask = commands.add_parser("ask", help="ask a running server about images or a video")
    ask.add_argument("--url", default="localhost:8001", help="gRPC address (default: localhost:8001)")
    ask.add_argument("--model", default="ensemble", help="model to ask (default: ensemble)")
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
    ask.add_argument("--max-tokens", type=positive)
    ask.add_argument("--temperature", type=float)
    ask.add_argument("--times", action="store_true", help="print the time each step took")
    ask.set_defaults(run=_ask)

    demo = commands.add_parser("demo", help="serve a small trained model that comes with gen-repo, and ask it")
    demo.add_argument("--model", choices=("vila", "llava"), default="vila", help="default: vila")
    demo.add_argument("--keep", action="store_true", help="let the server run until Ctrl-C; print how to ask it")
    demo.set_defaults(run=_demo)

    openai = commands.add_parser("openai", help="an OpenAI-compatible gateway and a page to try it")
    openai.add_argument("repository", metavar="REPO-or-URL", help="a repository, or host:port of a server's gRPC")
    openai.add_argument("--url", metavar="HOST:PORT", help="a server that has REPO loaded (default: start one)")
    openai.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    openai.add_argument("--port", type=positive, default=9000, help="port to listen on (default: 9000)")
    openai.add_argument("--served-model-name", metavar="NAME", help="what clients call the model (default: variant)")
    openai.add_argument("--max-body", type=positive, default=64, metavar="MIB", help="largest request (default: 64)")
    openai.set_defaults(run=_openai)

    benchmark = commands.add_parser("bench", help="load a server with perf_analyzer, step by step times")
    bench(benchmark)
    benchmark.set_defaults(run=_bench)
    return parser


def _print(findings: Sequence[Finding]) -> None:
    for finding in findings:
        print(finding, file=sys.stderr)


def _generate(arguments: argparse.Namespace) -> int:
    from generator.generate import decide, generate
    from generator.options import Options

    if not arguments.model:
        what = "no model given"
        raise Refused(
            error("usage", what, "--model", "see `gen-repo list` and `gen-repo --help`"), exit_code=EXIT_USAGE
        )
    options = Options(
        model=arguments.model,
        hf_model_dir=arguments.hf_model_dir,
        visual_engine_dir=arguments.visual_engine_dir,
        llm_engine_dir=arguments.llm_engine_dir,
        tokenizer_dir=arguments.tokenizer_dir,
        projector=arguments.projector,
        header_font=arguments.header_font,
        output=arguments.output,
        runtime=arguments.runtime,
        release=arguments.release,
        route=arguments.route,
        quantization=arguments.quantization,
        tp=arguments.tp,
        pp=arguments.pp,
        max_batch_size=arguments.max_batch_size,
        max_images=arguments.max_images,
        max_tokens=arguments.max_tokens,
        streaming=arguments.streaming,
        kv_cache_reuse=arguments.kv_cache_reuse,
        client_cache_ids=arguments.client_cache_ids,
        vision_cache=arguments.vision_cache,
        pixels=arguments.pixels,
        decode_scale=arguments.decode_scale,
        tokenizer=arguments.tokenizer,
        frame_order=arguments.frame_order,
        name=arguments.name,
        limits=tuple(arguments.limit),
        image_hosts=tuple(arguments.image_host),
        path_map=tuple(arguments.path_map),
        set=tuple(arguments.set),
        launch_mode=arguments.launch_mode,
        nodes=arguments.nodes,
        vision_gpus=arguments.vision_gpus,
        gpu_memory=arguments.gpu_memory,
        deploy=arguments.deploy,
        container=arguments.container,
        force=arguments.force,
    )
    if arguments.explain:
        from generator.explain import explain

        decided, facts, findings = decide(options)
        print(explain(decided, facts))
        _print(findings)
        return EXIT_FINDINGS if any(f.level == "error" for f in findings) else EXIT_OK
    outcome = generate(options)
    if arguments.json:
        result = {
            "output": str(outcome.output),
            "written": outcome.written,
            "findings": [finding.as_dict() for finding in outcome.findings],
        }
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        _print(outcome.findings)
        if not outcome.failed:
            print(f"{outcome.output}: {'written' if outcome.written else 'already up to date'}")
    return EXIT_FINDINGS if outcome.failed else EXIT_OK


def _list(arguments: argparse.Namespace) -> int:
    from generator.models import specs

    rows = [spec.summary() for spec in specs().values()]
    if arguments.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return EXIT_OK
    for row in rows:
        routes = ", ".join(row["routes"])
        release = row["default_release"]
        print(f"{row['model']}: {row['title']}, {row['images']} per prompt, TensorRT-LLM {release}, {routes}")
        for variant in row["variants"]:
            note = ""
            if variant["refused"]:
                note = f"  not supported: {variant['refused']}"
            elif variant["no_torch"]:
                note = f"  no --runtime torch: {variant['no_torch']}"
            print(f"  {variant['name']}{note}")
    return EXIT_OK


def _check(arguments: argparse.Namespace) -> int:
    from generator.check import check

    return _report(check(arguments.repository), arguments, "not usable", "fine")


def _doctor(arguments: argparse.Namespace) -> int:
    from generator.doctor import doctor

    return _report(doctor(arguments.repository), arguments, "cannot be served here", "can be served here")


def _report(findings: Sequence[Finding], arguments: argparse.Namespace, bad: str, good: str) -> int:
    failed = has_errors(findings)
    if arguments.json:
        print(json.dumps({"findings": [f.as_dict() for f in findings]}, indent=2, ensure_ascii=False))
    else:
        _print(findings)
        print(f"{arguments.repository}: {bad if failed else good}")
    return EXIT_FINDINGS if failed else EXIT_OK


def _build_vision(arguments: argparse.Namespace) -> int:
    from generator.vision_build.command import build
    from generator.vision_build.subject import BuildOptions

    options = BuildOptions(
        model=arguments.model,
        hf_model_dir=arguments.hf_model_dir,
        output=arguments.output,
        projector=arguments.projector,
        onnx_only=arguments.onnx_only,
        max_batch_size=arguments.max_batch_size,
        precision=arguments.precision,
        pixels=arguments.pixels,
        optimization_level=arguments.optimization_level,
    )
    built = build(options, tell=lambda line: print(line, file=sys.stderr, flush=True))
    if arguments.json:
        found = [finding.as_dict() for finding in built.findings]
        print(json.dumps({"file": str(built.file), "made": built.made, "findings": found}, indent=2))
    else:
        _print(built.findings)
        print(f"{built.file}: {'built' if built.made else 'already up to date'}")
    return EXIT_OK


def _serve(arguments: argparse.Namespace) -> int:
    from generator import server, supervise

    try:
        return supervise.serve(
            arguments.repository,
            http_port=arguments.http_port,
            grpc_port=arguments.grpc_port,
            metrics_port=arguments.metrics_port,
            restarts=arguments.restarts,
        )
    except server.ServerError as problem:
        found = error("server", problem.message, arguments.repository, problem.remedy)
        raise Refused(found, exit_code=EXIT_ENVIRONMENT) from None


def _ask(arguments: argparse.Namespace) -> int:
    from generator import ask, server

    given = {"temperature": arguments.temperature}
    try:
        return ask.run(
            arguments.url,
            arguments.model,
            arguments.text,
            arguments.image,
            videos=arguments.video,
            pdf=arguments.pdf,
            output=arguments.output,
            max_tokens=arguments.max_tokens,
            stream=arguments.stream,
            times=arguments.times,
            parameters={name: value for name, value in given.items() if value is not None},
        )
    except server.ServerError as problem:
        found = error("ask", problem.message, arguments.url, problem.remedy)
        raise Refused(found, exit_code=EXIT_ENVIRONMENT) from None


def _demo(arguments: argparse.Namespace) -> int:
    from generator import demo, server

    try:
        return demo.run(arguments.model, keep=arguments.keep)
    except server.ServerError as problem:
        found = error("demo", problem.message, "gen-repo demo", problem.remedy)
        raise Refused(found, exit_code=EXIT_ENVIRONMENT) from None


def _openai(arguments: argparse.Namespace) -> int:
    from generator import server
    from generator.gateway import serve

    try:
        return serve.run(
            arguments.repository,
            url=arguments.url,
            host=arguments.host,
            port=arguments.port,
            model=arguments.served_model_name,
            max_body=arguments.max_body << 20,
        )
    except server.ServerError as problem:
        found = error("openai", problem.message, arguments.repository, problem.remedy)
        raise Refused(found, exit_code=EXIT_ENVIRONMENT) from None


def _bench(arguments: argparse.Namespace) -> int:
    from generator import server
    from generator.bench import command
    from generator.bench.points import sweep

    sizes = (None,) if arguments.video else arguments.image_size
    lists = (sizes, arguments.images, arguments.prompt_words, arguments.output_tokens, arguments.concurrency)
    plan = command.Bench(
        arguments.repository,
        arguments.output,
        tuple(sweep(*lists)),
        url=arguments.url,
        model=arguments.model,
        stream=arguments.stream,
        images=tuple(arguments.image),
        videos=tuple(arguments.video),
        requests=arguments.requests,
        distinct=arguments.distinct,
    )
    try:
        result, found = command.run(plan, tell=lambda line: print(line, file=sys.stderr, flush=True))
    except server.ServerError as problem:
        failed = error("bench", problem.message, arguments.repository, problem.remedy)
        raise Refused(failed, exit_code=EXIT_ENVIRONMENT) from None
    if arguments.json:
        print(json.dumps({**result, "findings": [finding.as_dict() for finding in found]}, indent=2))
    else:
        _print(found)
        command.show(result, plan)
    return EXIT_OK


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code; findings go to stderr, or to stdout as JSON with --json."""
    arguments = _parser().parse_args(argv)
    command: Command = getattr(arguments, "run", _generate)
    try:
        return command(arguments)
    except Refused as refused:
        if getattr(arguments, "json", False):
            print(json.dumps({"findings": [f.as_dict() for f in refused.findings]}, indent=2, ensure_ascii=False))
        else:
            _print(refused.findings)
        return refused.exit_code
    except KeyboardInterrupt:
        return 130
