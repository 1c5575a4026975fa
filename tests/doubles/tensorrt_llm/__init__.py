"""Stand-in for the part of TensorRT-LLM's Python package that the LLM steps use, which needs a GPU.

It keeps that package's rules (shapes, types, the engines' limits, calls in their order) and asserts every argument. What
is computed is true where it can be: an engine file names a tiny checkpoint, which transformers runs.
"""
