"""How much property tests look for, and how.

The suite tries the same examples every time, so that what fails is what was changed. To look for
what nobody knows yet: ``pytest --hypothesis-profile explore``, at random and much longer.
"""

from hypothesis import settings

settings.register_profile("suite", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None, max_examples=3000)
settings.load_profile("suite")
