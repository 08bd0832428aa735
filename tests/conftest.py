"""What holds for all tests: none asserts a time, so no example has a deadline that a busy machine would miss."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
