#!/usr/bin/env bash
# Starts Triton with this repository. Made by gen-repo for nougat-base; further flags are passed on.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Every config is complete, so nothing may be guessed at load time.
arguments=(
  --model-repository="$repository"
  --disable-auto-complete-config
  --exit-timeout-secs=30
  # Prompt tables go from the vision step to the LLM on the GPU:
  # 2 x 8 requests x 588 rows x 1024 values.
  --cuda-memory-pool-byte-size=0:67108864
)
exec tritonserver "${arguments[@]}" "$@"
