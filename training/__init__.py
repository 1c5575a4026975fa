"""Trains the two small models that `gen-repo demo` serves: data drawn in code, checkpoints in the published layouts."""
