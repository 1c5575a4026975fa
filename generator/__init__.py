"""gen-repo: complete Triton model repositories for multimodal TensorRT-LLM models."""

__version__ = "0.1.0"
