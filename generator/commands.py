"""What each command of the command line does. Imports come late: a command pays for nothing that others need."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence

from generator.findings import EXIT_ENVIRONMENT, EXIT_FINDINGS, EXIT_OK, EXIT_USAGE, Finding, Refused, error, has_errors


def show(findings: Sequence[Finding]) -> None:
    for finding in findings:
        print(finding, file=sys.stderr)


@contextlib.contextmanager
def _environment(code: str, where: object) -> Iterator[None]:
    """A ServerError inside the block becomes a finding, and the exit code that says that something is missing."""
    from generator.server import ServerError

    try:
        yield
    except ServerError as problem:
        raise Refused(error(code, problem.message, where, problem.remedy), exit_code=EXIT_ENVIRONMENT) from None


def generate(arguments: argparse.Namespace) -> int:
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
        vision_backend=arguments.vision_backend,
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
        from generator.explain import as_dict, explain

        decided, facts, findings = decide(options)
        if arguments.json:
            result = as_dict(decided, facts) | {"findings": [finding.as_dict() for finding in findings]}
            print(json.dumps(result, indent=2, ensure_ascii=False))
        else:
            print(explain(decided, facts))
            show(findings)
        return EXIT_FINDINGS if has_errors(findings) else EXIT_OK
    outcome = generate(options)
    if arguments.json:
        result = {
            "output": str(outcome.output),
            "written": outcome.written,
            "findings": [finding.as_dict() for finding in outcome.findings],
        }
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        show(outcome.findings)
        if not outcome.failed:
            print(f"{outcome.output}: {'written' if outcome.written else 'already up to date'}")
    return EXIT_FINDINGS if outcome.failed else EXIT_OK


def list_models(arguments: argparse.Namespace) -> int:
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


def check(arguments: argparse.Namespace) -> int:
    from generator.check import check

    return _report(check(arguments.repository), arguments, "not usable", "fine")


def doctor(arguments: argparse.Namespace) -> int:
    from generator.doctor import doctor

    return _report(doctor(arguments.repository), arguments, "cannot be served here", "can be served here")


def _report(findings: Sequence[Finding], arguments: argparse.Namespace, bad: str, good: str) -> int:
    failed = has_errors(findings)
    if arguments.json:
        print(json.dumps({"findings": [f.as_dict() for f in findings]}, indent=2, ensure_ascii=False))
    else:
        show(findings)
        print(f"{arguments.repository}: {bad if failed else good}")
    return EXIT_FINDINGS if failed else EXIT_OK


def build_vision(arguments: argparse.Namespace) -> int:
    from generator.vision_build.command import build
    from generator.vision_build.subject import BuildOptions

    options = BuildOptions(
        model=arguments.model,
        hf_model_dir=arguments.hf_model_dir,
        output=arguments.output,
        projector=arguments.projector,
        onnx_only=arguments.onnx_only,
        vision_backend=arguments.vision_backend,
        max_batch_size=arguments.max_batch_size,
        max_images=arguments.max_images,
        precision=arguments.precision,
        table_precision=arguments.table_precision,
        pixels=arguments.pixels,
        optimization_level=arguments.optimization_level,
    )
    built = build(options, tell=lambda line: print(line, file=sys.stderr, flush=True))
    if arguments.json:
        found = [finding.as_dict() for finding in built.findings]
        print(json.dumps({"file": str(built.file), "made": built.made, "findings": found}, indent=2))
    else:
        show(built.findings)
        print(f"{built.file}: {'built' if built.made else 'already up to date'}")
    return EXIT_OK


def serve(arguments: argparse.Namespace) -> int:
    from generator import supervise

    with _environment("server", arguments.repository):
        return supervise.serve(
            arguments.repository,
            address=arguments.host,
            http_port=arguments.http_port,
            grpc_port=arguments.grpc_port,
            metrics_port=arguments.metrics_port,
            restarts=arguments.restarts,
        )


def ask(arguments: argparse.Namespace) -> int:
    from generator import ask

    given = {"temperature": arguments.temperature}
    with _environment("ask", arguments.url):
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


def demo(arguments: argparse.Namespace) -> int:
    from generator import demo

    with _environment("demo", "gen-repo demo"):
        return demo.run(arguments.model, keep=arguments.keep)


def openai(arguments: argparse.Namespace) -> int:
    from generator.gateway import serve

    with _environment("openai", arguments.repository):
        return serve.run(
            arguments.repository,
            url=arguments.url,
            host=arguments.host,
            port=arguments.port,
            model=arguments.served_model_name,
            max_body=arguments.max_body << 20,
            restarts=arguments.restarts,
        )


def bench(arguments: argparse.Namespace) -> int:
    from generator.bench import command
    from generator.bench.points import sweep
    from generator.supervise import interruptible

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
    with interruptible(), _environment("bench", arguments.repository):
        result, found = command.run(plan, tell=lambda line: print(line, file=sys.stderr, flush=True))
    if arguments.json:
        print(json.dumps({**result, "findings": [finding.as_dict() for finding in found]}, indent=2))
    else:
        show(found)
        command.show(result, plan)
    return EXIT_OK


def verify(arguments: argparse.Namespace) -> int:
    from generator.supervise import interruptible
    from generator.verify import command

    wanted = command.Verify(
        arguments.repository,
        arguments.hf_model_dir,
        url=arguments.url,
        text=arguments.text,
        images=tuple(arguments.image),
        videos=tuple(arguments.video),
        max_tokens=arguments.max_tokens,
        projector=arguments.projector,
        tokenizer=arguments.tokenizer_dir,
        font=arguments.header_font,
        acceptance=arguments.acceptance,
    )
    with interruptible(), _environment("verify", arguments.repository):
        verified = command.run(wanted, tell=lambda line: print(line, file=sys.stderr, flush=True))
    if arguments.json:
        print(json.dumps(verified.as_dict(), indent=2, ensure_ascii=False))
    else:
        command.show(verified, print)
        print(f"{arguments.repository}: {'as the checkpoint answers' if verified.right else 'deviates'}")
    return EXIT_OK if verified.right else EXIT_FINDINGS
