"""`make demo`: a tiny VILA with random weights, its repository, a real Triton, and one photograph asked about.

The weights are random, so the answer is noise; what the demo shows is the whole path at work. Nothing is downloaded.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from generator import ask, server
from generator.cli import main as gen_repo
from tests import photos
from tests.checkpoints import make

QUESTION = "What is in the picture?"


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="gen-repo-demo-") as scratch:
        folder = Path(scratch)
        checkpoint = make("vila", folder / "vila1.5-tiny")
        print(f"1. A tiny VILA with random weights: {checkpoint}")
        repository = folder / "model_repos/vila"
        command = [
            "--model",
            "vila",
            "--hf-model-dir",
            str(checkpoint),
            "--runtime",
            "torch",
            "--output",
            str(repository),
        ]
        print("\n2. gen-repo " + " ".join(command))
        if code := gen_repo(command):
            return code
        print(f"\n3. gen-repo check {repository}")
        if code := gen_repo(["check", str(repository)]):
            return code
        photo = folder / "china.jpg"
        photo.write_bytes(photos.encoded("china"))
        print("\n4. Triton")
        with server.running(repository) as running:
            print(f"ready: gRPC {running.grpc}, HTTP {running.http}, metrics {running.metrics}")
            print(f"\n5. gen-repo ask --image {photo.name} --text {QUESTION!r} --times")
            for _ in range(2):  # the first request also pays for what the libraries set up lazily
                ask.run(running.grpc, "ensemble", QUESTION, [photo], max_tokens=16, times=True)
        print("\nServer stopped. The weights are random: the answer is noise, the path is real.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
