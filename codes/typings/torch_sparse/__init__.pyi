# torch_sparse gives SparseTensor its [] and @ at run time, after the class is declared. Here it is Any.
from typing import Any

def __getattr__(name: str) -> Any: ...
