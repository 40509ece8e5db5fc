"""Of all tests, wherever they are."""

from hypothesis import settings

# How long an example takes says something about the machine, nothing about the code.
settings.register_profile("atlas", deadline=None)
settings.load_profile("atlas")
