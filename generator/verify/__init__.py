"""`gen-repo verify`: is what a served repository answers what Hugging Face answers from the same checkpoint?

Stage by stage, so that the first one that deviates is named: ids, pixels, vision rows, first token, greedy text.
"""
