"""`gen-repo bench`: load on a served repository with perf_analyzer, and what each of its steps spends on a request."""
