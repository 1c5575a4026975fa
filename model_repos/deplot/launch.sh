#!/usr/bin/env bash
# Starts Triton with this repository. Made by gen-repo for deplot; further flags are passed on to tritonserver.
# Needs 1 GPU(s) of 6.3 GiB for a full batch of longest requests; the KV cache takes what there is.
# Needs 640.0 MiB of /dev/shm: docker run --shm-size=671088640
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
command -v tritonserver >/dev/null || {
  echo "launch.sh: tritonserver is not on PATH: run this inside a Triton container, or use 'gen-repo serve'" >&2
  exit 127
}

# Every config is complete, so nothing may be guessed at load time.
arguments=(
  --model-repository="$repository"
  --disable-auto-complete-config
  --exit-timeout-secs=30
)

# Triton does not start a Python step again that has ended, and before 26.01 keeps saying that it is ready. So this ends the
# server then, and whoever started it (Kubernetes, systemd, docker run --restart=always) starts it again.
watch_steps() {
  local server=$1 before="" now stat line pid
  while sleep 2 && read -r line 2>/dev/null <"/proc/$server/stat" && [[ $line != *") Z "* ]]; do
    now=" "
    for stat in /proc/[0-9]*/stat; do
      { read -r line <"$stat"; } 2>/dev/null || continue
      [[ $line == *"(triton_python_b) "[!ZX]" $server "* ]] && now+="${line%% *} "
    done
    for pid in $before; do
      [[ $now == *" $pid "* ]] && continue
      echo "launch.sh: a Python step ended (process $pid), so the server ends" >&2
      kill -TERM "$server"
      return
    done
    before=$now
  done
}
# It becomes a child of the server, which takes this process's place. Steps of models that are unloaded end as they should.
[[ "$*" == *--model-control-mode* ]] || watch_steps $$ </dev/null >/dev/null &
# Tables go from the vision step to the LLM on the GPU, through this pool:
# 2 x 8 requests x 2048 rows x 768 values.
arguments+=(--cuda-memory-pool-byte-size=0:67108864)
exec tritonserver "${arguments[@]}" "$@"
