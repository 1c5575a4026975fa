"""Postprocessing as it is usually written: Hugging Face's tokenizer decodes each beam."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from transformers import AutoTokenizer


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.tokenizer = AutoTokenizer.from_pretrained(parameters["tokenizer_dir"]["string_value"])

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        ids, lengths = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("output_ids", "sequence_length")
        )
        texts = [
            [self.tokenizer.decode(beam[:length], skip_special_tokens=True) for beam, length in zip(*row, strict=True)]
            for row in zip(ids, lengths, strict=True)
        ]
        return pb_utils.InferenceResponse([pb_utils.Tensor("text_output", np.array(texts, dtype=np.object_))])
