# pyarrow's classes and functions come from its compiled part, of which pyright knows nothing. Here pyarrow is Any.
from typing import Any

def __getattr__(name: str) -> Any: ...
