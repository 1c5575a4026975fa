"""Types of the part of tensorrt_llm that the serving code uses (0.12 to 1.2)."""
