"""LLaVA-1.5 by transformers alone: its processor, its chat template, its model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlavaForConditionalGeneration

from generator.oracle.common import checked_marks
from generator.oracle.processor import ProcessorOracle


class LlavaOracle(ProcessorOracle):
    """Truth of a `LlavaForConditionalGeneration` checkpoint in `folder`, fp16 on the CPU."""

    model_class: Any = LlavaForConditionalGeneration

    def prompt(self, text: str, images: int, raw: bool = False) -> str:
        marked = checked_marks(text, images)
        if raw:
            return text
        placed = [] if marked else [{"type": "image"}] * images
        message = {"role": "user", "content": [*placed, {"type": "text", "text": text}]}
        return str(self.processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False))

    def rows(self, pixels: NDArray[np.float16]) -> NDArray[np.float16]:
        with torch.inference_mode():
            config = self.model.config
            features = self.model.get_image_features(
                torch.from_numpy(pixels),
                vision_feature_layer=config.vision_feature_layer,
                vision_feature_select_strategy=config.vision_feature_select_strategy,
            )
        rows: NDArray[np.float16] = torch.stack(list(features.pooler_output)).numpy()
        return rows
