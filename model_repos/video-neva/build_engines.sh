#!/usr/bin/env bash
# Builds the engines of nemotron-3 with TensorRT-LLM 1.2.1, then generates this repository again.
# Made by gen-repo. Run it in the TensorRT-LLM container of that release, in the folder examples/models/core/multimodal.
# Steps whose result exists are skipped, so it can be run again after a failure.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkpoint=nemotron.nemo
projector=projector.nemo
converted=tmp/trt_models/nemotron-3/bf16/1-gpu
llm_engine=tmp/trt_engines/nemotron-3/bf16/1-gpu/llm
vision_engine=tmp/trt_engines/nemotron-3/bf16/1-gpu/vision

# 1. Weights.
for archive in "$checkpoint" "$projector"; do
  if [[ ! -e $archive ]]; then
    echo "$archive is missing: put the NeMo checkpoint of Video NeVA there" >&2
    exit 1
  fi
done

# 2. LLM: checkpoint, then engine.
if [[ ! -e $converted/config.json ]]; then
  python ../../../quantization/quantize.py \
    --nemo_ckpt_path "$checkpoint" \
    --output_dir "$converted" \
    --batch_size 64 \
    --qformat full_prec \
    --dtype bfloat16
fi
if [[ ! -e $llm_engine/config.json ]]; then
  # The table is shared by all slots: 8 requests x 3072 rows.
  trtllm-build \
    --checkpoint_dir "$converted" \
    --output_dir "$llm_engine" \
    --gemm_plugin bfloat16 \
    --max_batch_size 8 \
    --max_input_len 4096 \
    --max_seq_len 4352 \
    --max_multimodal_len 24576
fi

# 3. Vision engine: images of all requests that run together go through it in one call.
if [[ ! -e $vision_engine/config.json ]]; then
  python build_multimodal_engine.py --model_type video-neva \
    --model_path "$projector" \
    --output_dir "$vision_engine" \
    --max_batch_size 8
fi

# 4. The repository again, now from the engines' own numbers.
exec gen-repo --model nemotron-3 --hf-model-dir "$checkpoint" --projector "$projector" --visual-engine-dir "$vision_engine" \
  --llm-engine-dir "$llm_engine" --output "$repository" --force --max-images 1 --max-batch-size 8 "$@"
