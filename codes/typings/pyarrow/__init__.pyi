# Much of pyarrow is made at run time (compute) or compiled without types. Here it is Any: its names are not checked, ours are.
from typing import Any

def __getattr__(name: str) -> Any: ...
