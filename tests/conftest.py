"""How thoroughly Hypothesis searches: briefly and reproducibly, unless asked for more.

`pytest --hypothesis-profile=explore` draws many new examples at each run.
"""

from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=60)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("ci")
