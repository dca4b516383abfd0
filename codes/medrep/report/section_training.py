"""The report's sections on what was made: concept vectors, training, and the settings that every run was made with.

Each function reads what a stage wrote and gives a Section of medrep.report.pages; what is not there is a Missing part with the command.
"""

import base64
import json
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from medrep import contract
from medrep.cdm import outcomes
from medrep.evaluation import results
from medrep.progress import format_figures
from medrep.report import charts
from medrep.report.pages import (
    CodeBlock,
    Details,
    FigureGrid,
    Image,
    MissingResult,
    Paragraph,
    Section,
    Subsection,
    Table,
    count_cell,
    format_interval,
    is_known,
    number_cell,
    parts_or_missing,
    slugify,
)

QUALITY_MEASURES = {
    ("link_auroc", "all"): ("AUROC of held-out relationships", "{} relationships"),
    ("link_auroc", "all, unsaid"): ("AUROC of those that no text names", "{} relationships, neither end named in the other's definition"),
    "retrieval_mrr": ("Reciprocal rank of the {}", "mean over {} concepts whose {} was held out"),
    "retrieval_recall_at_10": ("Found the {} in the first 10", "share of {} concepts whose {} was held out"),
    "neighbours_same_domain": ("Nearest 10 of the same domain", "share, {} concepts"),
    "neighbours_share_parent": ("Nearest 10 that share a parent", "share, {} concepts with siblings"),
    "decile_order": ("Order of deciles", "rank correlation, {} measurements"),
}
"""What a drawing is called, and what its figures are of."""
PROJECTIONS = {"pca": "principal components", "tsne": "t-SNE"}
FINETUNE_COMMAND, PRETRAIN_COMMAND = "python experiments/finetune.py -d 0 --model behrt", "python experiments/pretrain.py --model behrt"


def home_first(names, home: str) -> list[str]:
    """Home first, and outcomes as configs/outcomes has them."""
    known = [home, *outcomes.built_in_outcomes()]
    return sorted(dict.fromkeys(names), key=lambda name: known.index(name) if name in known else len(known))


def group_home_first(table: pd.DataFrame, column: str, home: str) -> list[tuple[str, pd.DataFrame]]:
    return [(name, table[table[column] == name]) for name in home_first(table[column], home)]


def rep_order(rep: str) -> int:
    return results.REPRESENTATIONS.index(rep) if rep in results.REPRESENTATIONS else len(results.REPRESENTATIONS)


def rep_style(rep: str) -> int:
    """One look a representation, all over the page."""
    return rep_order(rep) % len(charts.SERIES_COLOURS) if rep in results.REPRESENTATIONS else len(charts.SERIES_COLOURS) - 1


def arm_styles(arms: list[tuple]) -> dict[tuple, int]:
    """A look for each of a drawing's arms: its representation's, or one that is free where another has it, a plain arm first."""
    looks: dict[tuple, int] = {}
    for arm in sorted(arms, key=lambda arm: arm[4:] not in (("", ""), ("", "unk"))):
        free = [style for style in [rep_style(arm[3]), *range(len(charts.SERIES_COLOURS))] if style not in looks.values()]
        looks[arm] = free[0] if free else rep_style(arm[3])
    return looks


def read_runs(pattern: str) -> list[tuple[Path, dict]]:
    """Folders of finished runs below results/HOSPITAL, and what their config.yaml says."""
    files = sorted((contract.ROOT / "results").glob(f"*/{pattern}/config.yaml"))
    found = [(file.parent, yaml.safe_load(file.read_text()) or {}) for file in files]
    return [(folder, content) for folder, content in found if "run" in content]


def read_training_log(folder: Path) -> list[dict]:
    file = folder / "log.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines() if line.strip()] if file.exists() else []


def arm_of(run: dict) -> tuple:
    return (run.get("trained_on", run.get("home", "")), run["model"], run.get("head", ""), run["rep_type"], run.get("variant", ""), "")


# ---- vectors ---------------------------------------------------------------------------------------------------


def quality_section() -> Section:
    parts = parts_or_missing(contract.quality_file(), quality_parts, "The quality of concept vectors", "python representation/evaluate.py")
    return Section(
        "vectors",
        "Vectors",
        "Concept vectors",
        "What each representation knows before any patient model sees it: held-out relationships, retrieval, "
        "neighbourhoods and the order of a measurement's deciles, of vectors as the patient model reads them.",
        parts,
    )


def quality_parts(file: Path) -> list:
    table = pd.read_csv(file, keep_default_na=False, na_values={name: [""] for name in ("value", "low", "high")})
    drawn, captions = [], []
    for (measure, kind), of in table[table.space == "as_read"].groupby(["measure", "kind"], sort=False):
        if measure == "link_auroc" and kind not in ("all", "all, unsaid"):
            continue
        rows = sorted(of.itertuples(), key=lambda row: rep_order(row.arm))
        title, caption = QUALITY_MEASURES.get(measure) or QUALITY_MEASURES.get((measure, kind)) or (f"{measure} {kind}", "{}")
        title = title.format(kind)
        said = format_figures({row.arm: float(row.value) for row in rows})
        drawn.append(
            charts.forest_chart(
                [(row.arm, row.value, row.low, row.high, rep_style(row.arm)) for row in rows],
                slugify("quality", measure, kind),
                title,
                f"{title}: {said}.",
                "",
                level=0.5 if measure == "link_auroc" else None,
                width=3.7,
            )
        )
        captions.append(caption.format(f"{rows[0].n:,}", kind))
    rows = [
        [row.arm, row.measure, row.kind, row.space, number_cell(row.value, ".3f"), format_interval(row.low, row.high, ".3f"), count_cell(row.n)]
        for row in table.itertuples()
    ]
    maps = {method: contract.map_file(method) for method in PROJECTIONS if contract.map_file(method).exists()}
    alternative = (
        "Every concept as a point in two dimensions ({}), a panel an arm, coloured by domain: where domains lie apart, the vectors tell them apart."
    )
    pictures = FigureGrid(
        [embed_image(file, alternative.format(PROJECTIONS[method])) for method, file in maps.items()],
        across=1,
        captions=[f"Concepts on a map: {PROJECTIONS[method]}" for method in maps],
    )
    return [
        FigureGrid(drawn, across=3, captions=captions),
        Details(
            "Every measure and relationship",
            [Table("Quality of concept vectors", ["arm", "measure", "of", "space", "value", "95 % interval", "n"], rows)],
        ),
        Subsection("maps", "Maps", [pictures if maps else MissingResult("The maps", "python representation/evaluate.py")]),
    ]


def embed_image(file: Path, alternative: str) -> Image:
    data = file.read_bytes()
    width, height = struct.unpack(">II", data[16:24])  # of a PNG's header
    return Image("data:image/png;base64," + base64.b64encode(data).decode(), alternative, (width // 2, height // 2))


# ---- training ----------------------------------------------------------------------------------------------------


def training_section(home: str) -> Section:
    return Section(
        "training",
        "Training",
        "Training",
        "Loss by epoch in pretraining (train persons drawn thin, valid persons thick), and the validation AUROC in finetuning, "
        "a line a seed, with a point at the epoch that was kept. Training stops when validation no longer gets better.",
        [Subsection("pretraining", "Pretraining", pretraining_parts()), Subsection("finetuning", "Finetuning", finetuning_parts(home))],
    )


def pretraining_parts() -> list:
    by_model: dict[tuple, list] = {}
    for folder, content in read_runs("pretraining/*"):
        run, log = content["run"], read_training_log(folder)
        if log:
            by_model.setdefault((folder.parents[1].name, run.get("model", ""), run.get("head", "linear")), []).append((run["rep_type"], log))
    if not by_model:
        return [MissingResult("Pretraining", f"{PRETRAIN_COMMAND} --rep-type medrep --gpu-devices 0")]
    drawn, names = [], {}
    for (hospital, model, head), runs in by_model.items():
        runs = sorted(runs, key=lambda run: rep_order(run[0]))
        names |= {rep: rep_style(rep) for rep, _ in runs}
        for measure in ("loss", "accuracy"):
            label = f"{measure} of masked tokens"
            lines = [
                charts.Line(
                    rep,
                    *zip(*((line["epoch"], line[name]) for line in log if name in line), strict=True),
                    rep_style(rep),
                    marked=len(log) == 1,
                    thin=name == measure,
                )
                for rep, log in runs
                for name in (measure, f"valid_{measure}")
                if any(name in line for line in log)
            ]
            said = format_figures({rep: log[-1].get(f"valid_{measure}", "") for rep, log in runs})
            drawn.append(
                charts.line_chart(
                    lines,
                    slugify("pretraining", hospital, model, head, measure),
                    f"{model}{'' if head == 'linear' else f', {head} head'}, {hospital}",
                    f"{label} by epoch; in the last one: {said}.",
                    ("epoch", label),
                    whole_x=True,
                )
            )
    return [FigureGrid(drawn, charts.legend(names), across=3)]


def finetuning_parts(home: str) -> list:
    found: dict[str, list] = {}
    for folder, content in read_runs("finetuning/*/*/seed_*"):
        run, log = content["run"], read_training_log(folder)
        if log and not run.get("variant"):
            found.setdefault(run["outcome"], []).append((arm_of(run), run["seed"], log))
    if not found:
        return [MissingResult("Finetuning", f"{FINETUNE_COMMAND} --rep-type medrep --outcome MT")]
    drawn, names = [], {}
    for outcome in home_first(found, home):
        runs = sorted(found[outcome], key=lambda run: (results.arm_sort_key(run[0]), run[1]))
        names |= {results.arm_label(arm): rep_style(arm[3]) for arm, _, _ in runs}
        # of few positives more digits would tell how many
        lines = [
            charts.Line(
                "",
                [line["epoch"] for line in log],
                [round(line["valid_auroc"], 2) for line in log],
                rep_style(arm[3]),
                thin=True,
                marked=[max(range(len(log)), key=lambda i, log=log: log[i]["valid_auroc"])],
            )
            for arm, _, log in runs
            if all(is_known(line.get("valid_auroc")) for line in log)
        ]
        best: dict[str, list] = {}
        for arm, _, log in runs:
            best.setdefault(results.arm_label(arm), []).append(max(line.get("valid_auroc") or 0 for line in log))
        said = format_figures({name: round(float(np.mean(values)), 2) for name, values in best.items()})
        drawn.append(
            charts.line_chart(
                lines,
                slugify("finetuning", outcome),
                outcome,
                f"Validation AUROC by epoch; best, mean over seeds: {said}.",
                ("epoch", "validation AUROC"),
                whole_x=True,
            )
        )
    return [FigureGrid(drawn, charts.legend(names), across=3)]


# ---- settings ----------------------------------------------------------------------------------------------------------


def settings_section(code: str | None) -> Section:
    commit, _, changed = (code or "").partition(" ")
    written = f"This page was written by the code at commit {commit or 'unknown (not a git checkout)'}" + (
        ", with changes that are not committed." if changed else "."
    )
    section = Section(
        "settings", "Settings", "Settings and code", "What every run was made with, and by which commit of the code.", [Paragraph(written)]
    )
    runs = [(kind.partition("/")[0], content) for kind in ("pretraining/*", "finetuning/*/*/seed_*") for _, content in read_runs(kind)]
    if not runs:
        section.parts.append(MissingResult("Runs", f"{PRETRAIN_COMMAND} --rep-type medrep --gpu-devices 0"))
        return section
    commits = Counter(str(content["run"].get("code") or "unknown") for _, content in runs)
    section.parts.append(Table("Commits that runs were made by", ["commit", "runs"], [[commit, count_cell(n)] for commit, n in commits.items()]))
    shown: dict[tuple, list] = {}
    for kind, content in runs:  # runs of one kind that differ in nothing but who and what share a text
        parts = {name: value for name, value in content.items() if name not in ("run", "inputs")}
        shown.setdefault((kind, strip_paths(yaml.safe_dump(parts, sort_keys=False, allow_unicode=True))), []).append(content["run"])
    for (kind, text), of in shown.items():
        words = list(dict.fromkeys(" ".join(str(run[name]) for name in ("model", "rep_type", "variant") if run.get(name)) for run in of))
        more = f" and {len(words) - 6} more" if len(words) > 6 else ""
        section.parts.append(Details(f"{kind}: {', '.join(words[:6])}{more} ({len(of)} runs)", [CodeBlock(text, f"settings of {kind}")]))
    return section


def strip_paths(text: str) -> str:
    """Of a path of this machine its last part is left."""
    return "\n".join(" ".join(shorten_path(word) for word in line.split(" ")) for line in text.split("\n"))


def shorten_path(word: str) -> str:
    bare = word.strip("\"',[]{}")
    return word.replace(bare, Path(bare).name) if bare.startswith(("/", "~/")) and len(bare) > 1 else word
