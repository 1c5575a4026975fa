"""Facts: what the files on disk say. Readers return dataclasses and findings; they decide nothing and write nothing."""
