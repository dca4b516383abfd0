# As ibis: Any. Its modules are taken from the models of others, whose classes are known at run time.
from typing import Any

def __getattr__(name: str) -> Any: ...
