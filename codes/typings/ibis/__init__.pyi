# Ibis makes most methods of its expressions at run time (a column of text has .upper(), its declared class Column has not), and pyright
# would call each of them a mistake. Here ibis is Any: its names are not checked, ours are.
from typing import Any

def __getattr__(name: str) -> Any: ...
