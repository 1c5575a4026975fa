#!/usr/bin/env bash
# Builds the engines of vila1.5-3b with TensorRT-LLM 1.2.1, then generates this repository again.
# Made by gen-repo. Run it in the TensorRT-LLM container of that release, in the folder examples/models/core/multimodal.
# Steps whose result exists are skipped, so it can be run again after a failure.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkpoint=tmp/hf_models/vila1.5-3b
converted=tmp/trt_models/vila1.5-3b/fp16/1-gpu
llm_engine=tmp/trt_engines/vila1.5-3b/fp16/1-gpu/llm
vision_engine=tmp/trt_engines/vila1.5-3b/fp16/1-gpu/vision

# 1. Weights.
if [[ ! -e $checkpoint/config.json ]]; then
  git clone https://huggingface.co/Efficient-Large-Model/VILA1.5-3b "$checkpoint"
fi
# The build needs the VILA sources, and lower-case 'vila' in the path of the checkpoint.
export VILA_PATH="${VILA_PATH:-$(dirname "$checkpoint")/VILA}"
if [[ ! -e $VILA_PATH ]]; then
  git clone --branch vila1.5 https://github.com/NVlabs/VILA.git "$VILA_PATH"
fi

# 2. LLM: checkpoint, then engine.
if [[ ! -e $converted/config.json ]]; then
  python ../llama/convert_checkpoint.py \
    --model_dir "$checkpoint" \
    --output_dir "$converted" \
    --dtype float16
fi
if [[ ! -e $llm_engine/config.json ]]; then
  # The table is shared by all slots: 8 requests x 784 rows.
  trtllm-build \
    --checkpoint_dir "$converted" \
    --output_dir "$llm_engine" \
    --gemm_plugin float16 \
    --use_fused_mlp=enable \
    --max_batch_size 8 \
    --max_input_len 2048 \
    --max_seq_len 2560 \
    --max_multimodal_len 6272
fi

# 3. Vision engine: images of all requests that run together go through it in one call.
if [[ ! -e $vision_engine/config.json ]]; then
  python build_multimodal_engine.py --model_type vila --vila_path "${VILA_PATH}" \
    --model_path "$checkpoint" \
    --output_dir "$vision_engine" \
    --max_batch_size 32
fi

# 4. The repository again, now from the engines' own numbers.
exec gen-repo --model vila1.5-3b --hf-model-dir "$checkpoint" --visual-engine-dir "$vision_engine" \
  --llm-engine-dir "$llm_engine" --output "$repository" --force --max-images 4 --max-batch-size 8 "$@"
