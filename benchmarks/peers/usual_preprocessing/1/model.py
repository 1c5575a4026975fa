"""Preprocessing as it is usually written: Hugging Face's processor, loaded at the start, called for each request."""

import json
from io import BytesIO

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image
from transformers import AutoProcessor

TEMPLATE = "USER: <image>\n{} ASSISTANT:"


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.processor = AutoProcessor.from_pretrained(parameters["tokenizer_dir"]["string_value"])
        self.vocab_size = int(parameters["vocab_size"]["string_value"])

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        text, image, max_tokens = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("text_input", "image_encoded_input", "max_tokens")
        )
        prompt = TEMPLATE.format(text[0, 0].decode())
        pictures = [Image.open(BytesIO(file)).convert("RGB") for file in image[0]]
        made = self.processor(images=pictures, text=prompt, return_tensors="np")
        ids = made["input_ids"].astype(np.int32)
        rows = ids == self.processor.image_token_id
        ids[rows] = self.vocab_size + np.arange(rows.sum())
        outputs = {
            "pixel_values": made["pixel_values"].astype(np.float16)[None],
            "input_ids": ids,
            "input_lengths": np.array([[ids.shape[1]]], np.int32),
            "request_output_len": max_tokens,
        }
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])
