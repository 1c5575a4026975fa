#!/usr/bin/env bash
# Builds the engines of Phi-3-vision-128k-instruct with TensorRT-LLM 0.14.0, then generates this repository again.
# Made by gen-repo. Run it in the TensorRT-LLM container of that release, in the folder examples/multimodal.
# Steps whose result exists are skipped, so it can be run again after a failure.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkpoint=tmp/hf_models/Phi-3-vision-128k-instruct
converted=tmp/trt_models/Phi-3-vision-128k-instruct/fp16/1-gpu
llm_engine=tmp/trt_engines/Phi-3-vision-128k-instruct/fp16/1-gpu
vision_engine=tmp/trt_engines/Phi-3-vision-128k-instruct/vision_encoder

# 1. Weights.
if [[ ! -e $checkpoint/config.json ]]; then
  git clone https://huggingface.co/microsoft/Phi-3-vision-128k-instruct "$checkpoint"
fi

# 2. LLM: checkpoint, then engine.
if [[ ! -e $converted/config.json ]]; then
  python ../phi/convert_checkpoint.py \
    --model_dir "$checkpoint" \
    --output_dir "$converted" \
    --dtype float16
fi
if [[ ! -e $llm_engine/config.json ]]; then
  # The table is shared by all slots: 8 requests x 2450 rows.
  trtllm-build \
    --checkpoint_dir "$converted" \
    --output_dir "$llm_engine" \
    --gemm_plugin float16 \
    --max_batch_size 8 \
    --max_input_len 3677 \
    --max_seq_len 4096 \
    --max_multimodal_len 19600
fi

# 3. Vision engine: images of all requests that run together go through it in one call.
if [[ ! -e $vision_engine/config.json ]]; then
  python build_visual_engine.py --model_type phi-3-vision \
    --model_path "$checkpoint" \
    --output_dir "$vision_engine" \
    --max_batch_size 136
fi

# 4. The repository again, now from the engines' own numbers.
exec gen-repo --model Phi-3-vision-128k-instruct --hf-model-dir "$checkpoint" --visual-engine-dir "$vision_engine" \
  --llm-engine-dir "$llm_engine" --output "$repository" --force --max-images 1 --max-batch-size 8 "$@"
