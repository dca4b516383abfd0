"""The seed of what is drawn at random here: a new one each run, so that CI tries other kills, damages and inputs each time.

A test that fails says which it was; MEDREP_TEST_SEED=N in the environment draws the same again.
"""

import os
import random
import secrets

from hypothesis import HealthCheck, Phase, settings

SEED = int(os.environ.get("MEDREP_TEST_SEED") or secrets.randbelow(2**32))


def chance_of(test: str) -> random.Random:
    """Of each test its own, so that one alone draws what it draws among all."""
    return random.Random(f"{SEED} {test}")


def tried(examples: int) -> settings:
    """Of a Hypothesis test that is also decorated with seed(SEED): whatever CI's profile says, and with no memory of other runs' examples. What
    fails is made smaller, which takes minutes, when its seed is drawn again."""
    phases = [Phase.explicit, Phase.generate, *([Phase.shrink] if "MEDREP_TEST_SEED" in os.environ else [])]
    every = list(HealthCheck)
    return settings(max_examples=examples, deadline=None, suppress_health_check=every, derandomize=False, database=None, phases=phases)
