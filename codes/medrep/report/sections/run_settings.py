"""Settings and code: what every run was made with, of the runs' config.yaml, and by which commits."""

from collections import Counter

import yaml

from medrep.report.cells import count_cell, number_of
from medrep.report.inputs import PRETRAIN_COMMAND, read_runs, shorten_path
from medrep.report.pages import CodeBlock, Details, MissingResult, Paragraph, Section, Table


def build_section(code_version: str | None) -> Section:
    commit, _, changed = (code_version or "").partition(" ")
    written = f"This page was written by the code at commit {commit or 'unknown (not a git checkout)'}" + (
        ", with changes that are not committed." if changed else "."
    )
    section = Section(
        "settings", "Settings", "Settings and code", "What every run was made with, and by which commit of the code.", [Paragraph(written)]
    )
    runs = [(kind.partition("/")[0], content) for kind in ("pretraining/*", "finetuning/*/*/seed_*") for _, content in read_runs(kind)]
    if not runs:
        section.parts.append(MissingResult("Runs", f"{PRETRAIN_COMMAND} --rep-type medrep"))
        return section
    commits = Counter(str(content["run"].get("code") or "unknown") for _, content in runs)
    section.parts.append(Table("Commits that runs were made by", ["commit", "runs"], [[commit, count_cell(n)] for commit, n in commits.items()]))
    by_text: dict[tuple, list] = {}
    for kind, content in runs:  # runs of one kind that differ only in these share a text
        settings = {name: value for name, value in content.items() if name not in ("run", "inputs", "job")}
        by_text.setdefault((kind, strip_paths(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))), []).append(content["run"])
    for (kind, text), same_runs in by_text.items():
        names = list(dict.fromkeys(" ".join(str(run[key]) for key in ("model", "rep_type", "variant") if run.get(key)) for run in same_runs))
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        section.parts.append(
            Details(f"{kind}: {', '.join(names[:6])}{more} ({number_of(len(same_runs), 'run')})", [CodeBlock(text, f"settings of {kind}")])
        )
    return section


def strip_paths(text: str) -> str:
    """Each path of this machine shortened to its last part."""
    return "\n".join(" ".join(shorten_path(word) for word in line.split(" ")) for line in text.split("\n"))
