"""Tables as people read them in a terminal."""


def align_columns(columns: dict[str, list[str]]) -> str:
    """The first column to the left, the others to the right; a column without anything in it is left out."""
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    widths = [max(map(len, [name, *cells])) for name, cells in kept.items()]
    lines = [list(kept), *map(list, zip(*kept.values(), strict=True))]
    return "\n".join(
        "  ".join(f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    )
