"""Vision engines: a checkpoint's encoder -> ONNX -> TensorRT engine, config.json and constant rows.

`subject` decides what to build, `tower` loads it with the vision step's own module, `onnx_file` exports it, `engine`
builds it with TensorRT, `command` does all of it. torch, onnx and tensorrt are imported when they are used.
"""
