"""An OpenAI-compatible door to a served repository: chat completions with images, streaming, models."""
