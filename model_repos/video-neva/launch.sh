#!/usr/bin/env bash
# Starts Triton with this repository. Made by gen-repo for nemotron-3; further flags are passed on to tritonserver.
# Needs 1 GPU(s) of 37.7 GiB for a full batch of longest requests; the KV cache takes what there is.
# Needs 2.1 GiB of /dev/shm: docker run --shm-size=2281701376
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Every config is complete, so nothing may be guessed at load time.
arguments=(
  --model-repository="$repository"
  --disable-auto-complete-config
  --exit-timeout-secs=30
)
# Tables go from the vision step to the LLM on the GPU, through this pool:
# 2 x 8 requests x 3072 rows x 4096 values.
arguments+=(--cuda-memory-pool-byte-size=0:402653184)
exec tritonserver "${arguments[@]}" "$@"
