# pandas' own types give a union of Series, DataFrame and array for most selections. Here pandas is Any: its names are not checked, ours are.
from typing import Any

def __getattr__(name: str) -> Any: ...
