#!/usr/bin/env bash
# Builds the engines of neva with TensorRT-LLM 1.2.1, then generates this repository again.
# Made by gen-repo. Run it in the TensorRT-LLM container of that release, in the folder examples/models/core/multimodal.
# Steps whose result exists are skipped, so it can be run again after a failure.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkpoint=neva.nemo
converted=tmp/trt_models/neva/bf16/1-gpu
llm_engine=tmp/trt_engines/neva/bf16/1-gpu/llm
vision_engine=tmp/trt_engines/neva/bf16/1-gpu/vision

# 1. Weights.
for archive in "$checkpoint"; do
  if [[ ! -e $archive ]]; then
    echo "$archive is missing: put the NeMo checkpoint of NeVA there" >&2
    exit 1
  fi
done

# 2. LLM: checkpoint, then engine.
if [[ ! -e $converted/config.json ]]; then
  python ../gpt/convert_checkpoint.py \
    --nemo_ckpt_path "$checkpoint" \
    --output_dir "$converted" \
    --dtype bfloat16 --nemo_rename_key model:model.language_model attention.linear_qkv.layer_norm_bias:input_layernorm.bias attention.linear_qkv.layer_norm_weight:input_layernorm.weight mlp.linear_fc1.layer_norm_bias:post_attention_layernorm.bias mlp.linear_fc1.layer_norm_weight:post_attention_layernorm.weight linear_qkv:query_key_value linear_fc1:dense_h_to_4h linear_fc2:dense_4h_to_h linear_proj:dense decoder:encoder
fi
if [[ ! -e $llm_engine/config.json ]]; then
  # The table is shared by all slots: 8 requests x 728 rows.
  trtllm-build \
    --checkpoint_dir "$converted" \
    --output_dir "$llm_engine" \
    --gemm_plugin bfloat16 \
    --max_batch_size 8 \
    --max_input_len 2048 \
    --max_seq_len 2560 \
    --max_multimodal_len 5824
fi

# 3. Vision engine: images of all requests that run together go through it in one call.
if [[ ! -e $vision_engine/config.json ]]; then
  python build_multimodal_engine.py --model_type neva \
    --model_path "$checkpoint" \
    --output_dir "$vision_engine" \
    --max_batch_size 8
fi

# 4. The repository again, now from the engines' own numbers.
exec gen-repo --model neva --hf-model-dir "$checkpoint" --visual-engine-dir "$vision_engine" \
  --llm-engine-dir "$llm_engine" --output "$repository" --force --max-images 1 --max-batch-size 8 "$@"
