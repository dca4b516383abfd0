"""The report's sections on what was made: concept vectors, training, and the settings that every run was made with.

Each function reads what a stage wrote and gives a Section of medrep.pages; what is not there is a Missing part with the command.
"""
import base64
import json
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from medrep import charts, contract, outcomes, results
from medrep.pages import Code, Details, Figures, Missing, Part, Picture, Section, Table, Text, between, known, number, slug
from medrep.progress import in_words

MEASURES = {
    "link_auroc": "AUROC of held-out relationships",
    "retrieval_mrr": "mean reciprocal rank",
    "retrieval_recall_at_10": "recall at 10",
    "neighbours_same_domain": "neighbours of the same domain",
    "neighbours_share_parent": "neighbours that share a parent",
    "decile_order": "order of deciles",
}
MAPS = {"pca": "principal components", "tsne": "t-SNE"}
FINETUNE, PRETRAIN = "python experiments/finetune.py -d 0 --model behrt", "python experiments/pretrain.py --model behrt"


def in_order(names, home: str) -> list[str]:
    """Home first, and outcomes as configs/outcomes has them."""
    known = [home, *outcomes.built_in()]
    return sorted(dict.fromkeys(names), key=lambda name: known.index(name) if name in known else len(known))


def groups(table: pd.DataFrame, column: str, home: str) -> list[tuple[str, pd.DataFrame]]:
    return [(name, table[table[column] == name]) for name in in_order(table[column], home)]


def style_of(arm: tuple) -> int:
    """One look an arm's representation, all over the page."""
    return results.REPS.index(arm[3]) % len(charts.SERIES) if arm[3] in results.REPS else len(charts.SERIES) - 1


def styles(arms: list[tuple]) -> dict[tuple, int]:
    """A look for each of a drawing's arms: its representation's, unless two would look alike."""
    looks = {arm: style_of(arm) for arm in arms}
    return looks if len(set(looks.values())) == len(arms) else {arm: i for i, arm in enumerate(arms)}


def read_log(folder: Path) -> list[dict]:
    file = folder / "log.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines() if line.strip()] if file.exists() else []


# ---- vectors ---------------------------------------------------------------------------------------------------


def quality() -> Section:
    section = Section(
        "vectors",
        "Vectors",
        "Concept vectors",
        "What each representation knows before any patient model sees it: held-out relationships, retrieval, "
        "neighbourhoods and the order of a measurement's deciles, of vectors as the patient model reads them.",
    )
    if not contract.quality_file().exists():
        section.parts.append(Missing("The quality of concept vectors", "python representation/evaluate.py"))
        return section
    table = pd.read_csv(contract.quality_file(), keep_default_na=False, na_values={name: [""] for name in ("value", "low", "high")})
    drawn = []
    for (measure, kind), rows in table[table.space == "as_read"].groupby(["measure", "kind"], sort=False):
        if measure == "link_auroc" and kind not in ("all", "all, unsaid"):
            continue
        rows = sorted(rows.to_dict("records"), key=lambda row: place_of(row["arm"]))
        title = MEASURES.get(measure, measure)
        said = in_words({row["arm"]: float(row["value"]) for row in rows})
        drawn.append(
            (
                charts.intervals(
                    [(row["arm"], row["value"], row["low"], row["high"], style_of(("", "", "", row["arm"]))) for row in rows],
                    slug("quality", measure, kind),
                    title,
                    f"{title}, {kind}: {said}.",
                    "",
                    level=0.5 if measure == "link_auroc" else None,
                    width=3.7,
                ),
                f"Of {rows[0]['n']:,}{'' if kind == 'all' else f': {kind}'}",
            )
        )
    section.parts.append(Figures(drawn, across=3))
    rows = [
        [row.arm, row.measure, row.kind, row.space, number(row.value, ".3f"), between(row.low, row.high, ".3f"), number(row.n, ",.0f")]
        for row in table.itertuples()
    ]
    section.parts.append(
        Details(
            "Every measure and relationship",
            [Table("Quality of concept vectors", ["arm", "measure", "of", "space", "value", "95 % interval", "n"], rows)],
        )
    )
    pictures = [
        (
            picture(
                contract.map_file(method),
                f"Every concept as a point in two dimensions ({name}), a panel an arm, coloured by domain: where domains lie "
                "apart, the vectors tell them apart.",
            ),
            f"Concepts on a map: {name}",
        )
        for method, name in MAPS.items()
        if contract.map_file(method).exists()
    ]
    section.parts.append(
        Part("maps", "Maps", [Figures(pictures, across=1)] if pictures else [Missing("The maps", "python representation/evaluate.py")])
    )
    return section


def place_of(rep: str) -> int:
    return results.REPS.index(rep) if rep in results.REPS else len(results.REPS)


def picture(file: Path, alternative: str) -> Picture:
    data = file.read_bytes()
    width, height = struct.unpack(">II", data[16:24])  # of a PNG's header
    return Picture("data:image/png;base64," + base64.b64encode(data).decode(), alternative, (width // 2, height // 2))


# ---- training ----------------------------------------------------------------------------------------------------


def training(home: str) -> Section:
    section = Section(
        "training",
        "Training",
        "Training",
        "Loss by epoch in pretraining (train persons drawn thin, valid persons thick), and the validation AUROC in finetuning, "
        "a line a seed. Training stops when validation no longer gets better.",
    )
    section.parts.append(Part("pretraining", "Pretraining", pretraining_parts()))
    section.parts.append(Part("finetuning", "Finetuning", finetuning_parts(home)))
    return section


def pretraining_parts() -> list:
    folders = sorted(file.parent for file in (contract.ROOT / "results").glob("*/pretraining/*/log.jsonl"))
    by_model: dict[tuple, list] = {}
    for folder in folders:
        facts, log = run_facts(folder), read_log(folder)
        if log and facts:
            by_model.setdefault((folder.parents[1].name, facts.get("model", ""), facts.get("head", "linear")), []).append((facts["rep_type"], log))
    if not by_model:
        return [Missing("Pretraining", f"{PRETRAIN} --rep-type medrep --gpu-devices 0")]
    drawn, names = [], {}
    for (hospital, model, head), runs in by_model.items():
        runs = sorted(runs, key=lambda run: place_of(run[0]))
        names |= {rep: style_of(("", "", "", rep)) for rep, _ in runs}
        called = f"{model}{'' if head == 'linear' else f', {head} head'}, {hospital}"
        for measure, label in (("loss", "loss of masked tokens"), ("accuracy", "accuracy of masked tokens")):
            lines = [
                charts.Line(
                    rep,
                    [line["epoch"] for line in log if name in line],
                    [line[name] for line in log if name in line],
                    style_of(("", "", "", rep)),
                    marked=len(log) == 1,
                    thin=name == measure,
                )
                for rep, log in runs
                for name in (measure, f"valid_{measure}")
            ]
            said = in_words({rep: log[-1].get(f"valid_{measure}", "") for rep, log in runs})
            drawn.append(
                (
                    charts.lines(
                        lines,
                        slug("pretraining", hospital, model, head, measure),
                        called,
                        f"{label} by epoch; in the last one: {said}.",
                        ("epoch", label),
                        whole_x=True,
                    ),
                    "",
                )
            )
    return [Figures(drawn, charts.legend(names), across=3)]


def run_facts(folder: Path) -> dict | None:
    """What config.yaml says of a finished run."""
    file = folder / "config.yaml"
    return (yaml.safe_load(file.read_text()) or {}).get("run") if file.exists() else None


def arm_of(facts: dict) -> tuple:
    return (facts.get("trained_on", facts.get("home", "")), facts["model"], facts.get("head", ""), facts["rep_type"], facts.get("variant", ""), "")


def finetuning_parts(home: str) -> list:
    found: dict[str, list] = {}
    for file in sorted((contract.ROOT / "results").glob("*/finetuning/*/*/seed_*/log.jsonl")):
        facts, log = run_facts(file.parent), read_log(file.parent)
        if facts and log and not facts.get("variant"):
            found.setdefault(facts["outcome"], []).append((arm_of(facts), facts["seed"], log))
    if not found:
        return [Missing("Finetuning", f"{FINETUNE} --rep-type medrep --outcome MT")]
    drawn, names = [], {}
    for outcome in in_order(found, home):
        runs = sorted(found[outcome], key=lambda run: (results.place(run[0]), run[1]))
        names |= {results.name_arm(arm): style_of(arm) for arm, _, _ in runs}
        lines = [
            charts.Line("", [line["epoch"] for line in log], [line["valid_auroc"] for line in log], style_of(arm), thin=True, marked=True)
            for arm, _, log in runs
            if all(known(line.get("valid_auroc")) for line in log)
        ]
        best: dict[str, list] = {}
        for arm, _, log in runs:
            best.setdefault(results.name_arm(arm), []).append(max((line.get("valid_auroc") or 0 for line in log), default=0))
        said = in_words({name: float(np.mean(values)) for name, values in best.items()})
        drawn.append(
            (
                charts.lines(
                    lines,
                    slug("finetuning", outcome),
                    outcome,
                    f"Validation AUROC by epoch; best, mean over seeds: {said}.",
                    ("epoch", "validation AUROC"),
                    whole_x=True,
                ),
                "",
            )
        )
    return [Figures(drawn, charts.legend(names), across=3)]


# ---- settings ----------------------------------------------------------------------------------------------------------


def settings(code: str | None) -> Section:
    section = Section("settings", "Settings", "Settings and code", "What every run was made with, and by which commit of the code.")
    commit, _, changed = (code or "").partition(" ")
    section.parts.append(
        Text(
            f"This page was written by the code at commit {commit or 'unknown (not a git checkout)'}"
            + (", with changes that are not committed." if changed else ".")
        )
    )
    runs = []
    for kind in ("pretraining/*", "finetuning/*/*/seed_*"):
        for file in sorted((contract.ROOT / "results").glob(f"*/{kind}/config.yaml")):
            content = yaml.safe_load(file.read_text()) or {}
            if "run" in content:
                runs.append((kind.partition("/")[0], content))
    if not runs:
        section.parts.append(Missing("Runs", f"{PRETRAIN} --rep-type medrep --gpu-devices 0"))
        return section
    commits: dict[str, int] = {}
    for _, content in runs:
        commit = str(content["run"].get("code") or "unknown")
        commits[commit] = commits.get(commit, 0) + 1
    section.parts.append(Table("Commits that runs were made by", ["commit", "runs"], [[commit, number(n, ",.0f")] for commit, n in commits.items()]))
    shown = {}
    for kind, content in runs:  # runs of one kind that differ in nothing but who and what share a text
        parts = {name: value for name, value in content.items() if name not in ("run", "inputs")}
        text = without_paths(yaml.safe_dump(parts, sort_keys=False, allow_unicode=True))
        shown.setdefault((kind, text), []).append(content["run"])
    for (kind, text), of in shown.items():
        words = list(dict.fromkeys(" ".join(str(run[name]) for name in ("model", "rep_type", "variant") if run.get(name)) for run in of))
        section.parts.append(
            Details(
                f"{kind}: {', '.join(words[:6])}{f' and {len(words) - 6} more' if len(words) > 6 else ''} ({len(of)} runs)",
                [Code(text, f"settings of {kind}")],
            )
        )
    return section


def without_paths(text: str) -> str:
    """Of a path of this machine its last part is left."""
    return "\n".join(" ".join(shorten(word) for word in line.split(" ")) for line in text.split("\n"))


def shorten(word: str) -> str:
    bare = word.strip("\"',[]{}")
    return word.replace(bare, Path(bare).name) if bare.startswith(("/", "~/")) and len(bare) > 1 else word
