#!/usr/bin/env bash
# Builds the engines of cogvlm-chat-hf with TensorRT-LLM 1.2.1, then generates this repository again.
# Made by gen-repo. Run it in the TensorRT-LLM container of that release, in the folder examples/models/core/multimodal.
# Steps whose result exists are skipped, so it can be run again after a failure.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkpoint=tmp/hf_models/cogvlm-chat-hf
converted=tmp/trt_models/cogvlm-chat-hf/bf16/1-gpu
llm_engine=tmp/trt_engines/cogvlm-chat-hf/bf16/1-gpu/llm
vision_engine=tmp/trt_engines/cogvlm-chat-hf/bf16/1-gpu/vision

# 1. Weights.
if [[ ! -e $checkpoint/config.json ]]; then
  git clone https://huggingface.co/THUDM/cogvlm-chat-hf "$checkpoint"
fi

# 2. LLM: checkpoint, then engine.
if [[ ! -e $converted/config.json ]]; then
  python ../cogvlm/convert_checkpoint.py \
    --model_dir "$checkpoint" \
    --output_dir "$converted" \
    --dtype bfloat16 --use_prompt_tuning
fi
if [[ ! -e $llm_engine/config.json ]]; then
  # The table is shared by all slots: 8 requests x 1227 rows.
  trtllm-build \
    --checkpoint_dir "$converted" \
    --output_dir "$llm_engine" \
    --gemm_plugin bfloat16 \
    --max_batch_size 8 \
    --max_input_len 2251 \
    --max_seq_len 2763 \
    --max_multimodal_len 9816
fi

# 3. Vision engine: images of all requests that run together go through it in one call.
if [[ ! -e $vision_engine/config.json ]]; then
  python build_multimodal_engine.py --model_type cogvlm \
    --model_path "$checkpoint" \
    --output_dir "$vision_engine" \
    --max_batch_size 8
fi

# 4. The repository again, now from the engines' own numbers.
exec gen-repo --model cogvlm-chat-hf --hf-model-dir "$checkpoint" --visual-engine-dir "$vision_engine" \
  --llm-engine-dir "$llm_engine" --output "$repository" --force --max-images 1 --max-batch-size 8 "$@"
