"""Types of the bindings of the C++ runtime."""
