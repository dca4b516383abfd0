# SciPy has no types: pyright guesses them from its source, and takes csr_array @ csr_array for an ndarray. Here scipy is Any: its names are
# not checked, ours are.
from typing import Any

def __getattr__(name: str) -> Any: ...
