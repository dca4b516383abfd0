# scikit-learn has no types: pyright guesses them from its source, and takes coef_ and intercept_ for numbers. Here sklearn is Any: its names
# are not checked, ours are.
from typing import Any

def __getattr__(name: str) -> Any: ...
