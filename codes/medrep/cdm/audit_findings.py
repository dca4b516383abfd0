"""What a leakage audit (preprocessing/audit.py, usedata/{hospital}/audit.json) found suspect, and what it could not test."""


def find_suspects(audit: dict) -> dict[str, list[tuple[str, dict]]]:
    """{what is suspect: (outcome, row)} of a leakage audit: types of events, domains of which no type is, days, and tokens.

    An audit of an earlier version has no domains or days.
    """
    found: dict[str, list[tuple[str, dict]]] = {"types": [], "domains": [], "days": [], "tokens": []}
    for outcome, result in audit.items():
        types = [row for row in result["open_stays"] if row["suspect"]]
        found["types"] += [(outcome, row) for row in types]
        named = {row["domain"] for row in types}
        found["domains"] += [(outcome, row) for row in result.get("open_domains", []) if row["suspect"] and row["domain"] not in named]
        found["days"] += [(outcome, row) for row in result.get("first_days", []) if row["suspect"]]
        found["tokens"] += [(outcome, row) for row in result["best_tokens"] if row["suspect"]]
    return found


def find_untested(audit: dict[str, dict]) -> list[str]:
    """The outcomes of which no token could be tested, as too few persons have them, or lack them."""
    return [outcome for outcome, result in audit.items() if not result["best_tokens"]]
