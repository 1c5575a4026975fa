"""Settings that all tests share."""

from hypothesis import settings

# Machines that run tests are slow and busy; a deadline would only measure them.
settings.register_profile("patient", deadline=None, print_blob=True)
settings.load_profile("patient")
