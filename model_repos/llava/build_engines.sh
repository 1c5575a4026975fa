#!/usr/bin/env bash
# Builds the engines of llava-1.5-7b-hf with TensorRT-LLM 1.2.1 and TensorRT 10.14.1.48, then generates this repository again.
# Made by gen-repo.
#
# usage: build_engines.sh [download|convert|llm|vision|generate]...      (default: all, in this order)
#
# Run it in nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3:
# engines run with the TensorRT that built them, on the kind of GPU that they were built on.
# It needs the examples of that release: run it in examples/models/core/multimodal, or say where they are with
# TENSORRT_LLM_EXAMPLES=/path/to/examples. What exists is skipped, so it can be run again after a failure.
#
# Where it differs from the guide:
# - The guide builds the vision engine for 4 images whatever the LLM's batch is.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
examples=${TENSORRT_LLM_EXAMPLES:-../../..}
checkpoint=tmp/hf_models/llava-1.5-7b-hf
converted=tmp/trt_models/llava-1.5-7b-hf/fp16/1-gpu
llm_engine=tmp/trt_engines/llava-1.5-7b-hf/fp16/1-gpu/llm
vision_engine=tmp/trt_engines/llava-1.5-7b-hf/fp16/1-gpu/vision

fail() {
  echo "build_engines.sh: $1" >&2
  exit 1
}

# Whether a step's result exists. A step writes to DIRECTORY.part, which becomes DIRECTORY when the step is done.
made() {
  if [[ -d $1 ]]; then
    echo "exists: $1"
    return 0
  fi
  rm -rf "$1.part"
  mkdir -p "$(dirname "$1")"
  return 1
}

example() {
  [[ -f $examples/$1 ]] || fail "$examples/$1 is missing: run this in the examples' models/core/multimodal folder, or set TENSORRT_LLM_EXAMPLES"
}

need() {
  command -v "$1" > /dev/null || fail "$1 is missing: $2; then run this again, what is built is kept"
}

# 1. Weights.
download() {
  if ! made "$checkpoint"; then
    git lfs version > /dev/null || fail "git-lfs is missing, without which a clone has no weights: apt-get install git-lfs"
    git clone https://huggingface.co/llava-hf/llava-1.5-7b-hf "$checkpoint.part"
    mv "$checkpoint.part" "$checkpoint"
  fi
}

# 2. The LLM's checkpoint in TensorRT-LLM's form: float16, quantization none, tp 1 x pp 1.
convert() {
  made "$converted" && return
  example models/core/llama/convert_checkpoint.py
  python3 "$examples/models/core/llama/convert_checkpoint.py" \
    --model_dir "$checkpoint" \
    --output_dir "$converted.part" \
    --dtype float16
  mv "$converted.part" "$converted"
}

# 3. The LLM's engine, for 8 requests at a time x 576 rows of the prompt table.
llm() {
  made "$llm_engine" && return
  need trtllm-build "run this where TensorRT-LLM 1.2.1 is installed"
  trtllm-build \
    --checkpoint_dir "$converted" \
    --output_dir "$llm_engine.part" \
    --gemm_plugin float16 \
    --use_fused_mlp=enable \
    --max_beam_width 1 \
    --max_batch_size 8 \
    --max_input_len 2048 \
    --max_seq_len 2560 \
    --max_num_tokens 8192 \
    --max_multimodal_len 4608
  mv "$llm_engine.part" "$llm_engine"
}

# 4. The vision engine: one call takes the images of all requests that run together.
vision() {
  made "$vision_engine" && return
  example models/core/multimodal/build_multimodal_engine.py
  python3 "$examples/models/core/multimodal/build_multimodal_engine.py" --model_type llava \
    --model_path "$checkpoint" \
    --output_dir "$vision_engine.part" \
    --max_batch_size 8
  mv "$vision_engine.part" "$vision_engine"
}

# 5. This repository again, now from the engines' own numbers.
generate() {
  need gen-repo "install it here"
  gen-repo --model llava --max-images 1 --max-batch-size 8 --max-tokens 128 \
    --hf-model-dir "$checkpoint" \
    --visual-engine-dir "$vision_engine" \
    --llm-engine-dir "$llm_engine" \
    --output "$repository" --force
}

if [[ $PWD/ == "$repository"/* ]]; then
  fail "run it in a folder outside of the repository, as its last step replaces that: cd /somewhere && $repository/build_engines.sh"
fi

steps=("$@")
if (($# == 0)); then
  steps=(download convert llm vision generate)
fi
for step in "${steps[@]}"; do
  case $step in
    download | convert | llm | vision | generate) "$step" ;;
    *) fail "no step '$step': there are download, convert, llm, vision and generate" ;;
  esac
done
