"""Rate the features a finetuned model attends to, with a medical language model.

    cd codes
    CUDA_VISIBLE_DEVICES=0 python experiments/medgemma.py --rep medrep --outcome MT --seed 100 --ex mimic
    python experiments/medgemma.py --rep medrep --outcome all --seed 100 --ex ehrshot           # every outcome whose features are there
    python experiments/medgemma.py --outcome MT --base-url http://gpu-server:8000/v1            # vLLM or any other OpenAI-compatible server
    python experiments/medgemma.py --outcome MT --llm path/to/a/model                           # another model, by its folder or id
    python experiments/medgemma.py --outcome MT --variant aug4x0.8                              # of the run with augmentation

Reads   results/{home}/finetuning/{model}_{rep}[_variant]/{outcome}/seed_{seed}/{attention_{ex}.parquet,features_{ex}.csv}, data/concepts (names),
        configs/rating.yaml, configs/prompts/rating.yaml
Writes  beside them rating_{ex}.csv (a row a feature), rating_{ex}.json (the figures), rating_{ex}_answers.jsonl (as they came)

The hundred top features are rated Low, Moderate or High, and with them, unmarked and mixed, as many controls drawn at random and as
many that are about as frequent: what a rating says of the top ones is what it says of them and not of the controls. All are rated
several times in different orders. The language model is told names and the outcome, never an id, a count, a date or a mark, and the
rest stays here. It runs on this machine, or a server is asked (its key, if it wants one, is OPENAI_API_KEY).

Answers are kept as they come: the same command goes on after a kill, and asks nothing twice that was answered. What an answer lacks is
asked for again, and what stays unreadable is counted, kept as it came, and never guessed.
"""

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd

from medrep import config, contract, progress, stamps, storage
from medrep.cdm import outcomes
from medrep.cdm.sources import athena
from medrep.errors import UserError
from medrep.evaluation import ratings
from medrep.llm.chat_requests import Request
from medrep.llm.rater import Rater, read_cached_answers
from medrep.llm.rating_prompts import cohort_of_labels, describe_outcome, read_rating_prompt
from medrep.progress import print_line, timed_stage
from medrep.settings import CohortConfig, RatingConfig
from medrep.stamps import Stamp
from medrep.vectors import representations

RATING_COLUMNS = [
    "token",
    "name",
    "kind",
    "rating",
    "rank",
    "persons",
    "attention",
    "attention_mean",
    "attribution",
    "attribution_mean",
    "attribution_abs_mean",
]
MAX_FREQUENCY_GAP = 0.2  # by how much of the top features' the matched controls' median of persons may differ before that is said


# ---- one outcome ---------------------------------------------------------------------------------------------


def choose_features(folder: Path, hospital: str, settings: RatingConfig, seed: int) -> pd.DataFrame:
    """The features to rate, with attribution_abs_mean (mean by event)."""
    from medrep.evaluation import features  # torch and transformers: seconds after which a wrong flag would be said

    important, count = features.rank_features(contract.attention_file(folder, hospital)), settings.features
    top = pd.read_csv(contract.features_file(folder, hospital), dtype={"token": str}).token.head(count)
    if important.empty:
        raise UserError(f"{contract.display_path(contract.attention_file(folder, hospital))} has no events: there is nothing to rate")
    if not top.isin(important.token).all():
        raise UserError(
            f"{contract.display_path(contract.features_file(folder, hospital))} has tokens that {contract.attention_file(folder, hospital).name} "
            "beside it has not: remove it, and finetune.py --extract-attention-score writes both"
        )
    few = int((important[important.token.isin(top)].persons < settings.min_persons).sum())
    if few == len(top):
        raise UserError(
            f"each of the {len(top):,} top features of {contract.display_path(folder)} has fewer than {settings.min_persons} persons "
            "(rating.min_persons): there is nothing to rate"
        )
    chosen = ratings.select_features(important, top, seed, settings.min_persons)
    kinds, persons = chosen.kind.value_counts(), chosen.drop_duplicates(["kind", "key"]).groupby("kind").persons.median()
    if not kinds.get("top"):
        raise UserError(
            f"none of the {len(top):,} top features of {contract.display_path(folder)} has a name: CONCEPT.csv in data/concepts has the names"
        )
    names = chosen[chosen.kind == "top"].key.nunique()
    notes = {
        f"{len(top):,} features, not {count:,}": len(top) < count,
        f"{few:,} of fewer than {settings.min_persons} persons are left out": few > 0,
        f"{len(top) - few - kinds['top']:,} without a name are left out": len(top) - few > kinds["top"],
        f"{kinds['top'] - names:,} have another's name and are rated with it": kinds["top"] > names,
    }
    notes |= {f"{kinds.get(kind, 0):,} {kind} controls, as many as there are": kinds.get(kind, 0) < names for kind in ratings.FEATURE_KINDS[1:]}
    if kinds.get("matched"):
        notes[
            f"the matched controls are not as frequent as the top features, for want of others ({persons['matched']:,.0f} persons against "
            f"{persons['top']:,.0f}, medians)"
        ] = abs(persons["matched"] - persons["top"]) > MAX_FREQUENCY_GAP * persons["top"]
    if told := [note for note, holds in notes.items() if holds]:
        print_line(f"{hospital}: {'; '.join(told)}")
    return chosen.assign(attribution_abs_mean=chosen.attribution_abs / chosen.attributed.where(chosen.attributed > 0))


def describe_unread_answers(rated: ratings.RatingAnswers, answers: dict[str, dict], max_tokens: int | None) -> dict:
    """Of the names that have no rating: the keys of their last answers, how many of these broke off, and the beginning of the first."""
    unread = sorted({key for asked, key in rated.last.items() if asked not in rated.words})
    broken_off = [answers[key] for key in unread if answers.get(key, {}).get("ended") == "length"]
    return {
        "unparsed_answers": unread,
        "broken_off": len(broken_off),
        "broken_off_early": sum(0 < answer.get("output_tokens", 0) < (max_tokens or math.inf) for answer in broken_off),
        "said": answers.get(unread[0], {}).get("text", "")[:100] if unread else "",
    }


def rate_outcome(folder: Path, outcome: str, args, settings: RatingConfig, rater: Rater, prompt_texts: dict, cohort: CohortConfig) -> dict:
    """Rate one outcome's features, write the files, and give the figures; what is there already of the same inputs stays."""
    files, described = contract.rating_files(folder, args.ex), describe_outcome(prompt_texts, outcome, cohort_of_labels(outcome, cohort))
    question = ratings.RatingPrompt(prompt_texts["system"], prompt_texts["user"].replace("{outcome}", described), prompt_texts["again"])
    prompt = hashlib.sha256("\n".join([question.system, question.user, question.again]).encode()).hexdigest()[:16]
    decisive = {
        name: value
        for name, value in asdict(settings).items()
        if name in ("model", "temperature", "max_tokens", "tries", "features", "min_persons", "repeats", "batch")
    }
    stamp = Stamp(
        files["summary"],
        settings=decisive | rater.identity() | {"prompt": prompt, "seed": args.seed},
        inputs=[contract.attention_file(folder, args.ex), contract.features_file(folder, args.ex), *athena.input_files("concept")],
        beside=[files["ratings"]],
    )
    # all that is asked anew comes together beside what is there, which stays until it has
    before = json.loads(files["summary"].read_text()) if files["summary"].exists() and files["ratings"].exists() else None
    answers = storage.unfinished_path(files["answers"]) if args.fresh else files["answers"]
    if not args.fresh and before and not has_no_ratings(before) and stamp.is_current():
        stamps.require_undamaged(files["summary"])
        found = before
        if found["where"] != rater.where:
            print_line(f"{outcome}, {args.ex}: these are the answers of {found['where']}; --fresh asks {rater.where}")
        return found
    chosen, start = choose_features(folder, args.ex, settings, args.seed), time.perf_counter()
    name_of = chosen.drop_duplicates("key").set_index("key").name
    print_line(
        f"{outcome}, {args.ex}: {len(name_of):,} names, {(chosen.kind == 'top').sum():,} of them top features, rated {settings.repeats} times by "
        f"{settings.model} ({rater.where})"
    )

    def ask(requests: list[Request], readable: Callable[[str, str], bool]) -> dict[str, str]:
        return rater.ask(requests, readable, answers)

    rated = ratings.rate_names(name_of.tolist(), question, settings, args.seed, ask, **rater.identity())
    for repeat, column in enumerate(ratings.rating_columns(settings.repeats)):
        chosen[column] = pd.Series([rated.words.get((repeat, name_of[key])) for key in chosen.key], index=chosen.index, dtype=object)
    chosen["rating"] = ratings.modal_rating(ratings.rating_matrix(chosen))
    found = {
        "outcome": outcome,
        "asked_about": described,
        "hospital": args.ex,
        "model": settings.model,
        "where": rater.where,
        "prompt": prompt,
        "repeats": settings.repeats,
        "seed": args.seed,
        **ratings.summarize_ratings(chosen),
        **describe_unread_answers(rated, read_cached_answers(answers), settings.max_tokens),
        "answers": contract.display_path(files["answers"]),
        "requests": rated.requests,
        "seconds": round(time.perf_counter() - start, 1),
    }
    if before and has_no_ratings(found) and not has_no_ratings(before):
        print_line(f"{contract.display_path(files['ratings'])} stays as it was, rated by {before['model']}")
        return found | {"answers": contract.display_path(answers)}
    if before and before["model"] != settings.model:
        print_line(
            f"{contract.display_path(files['ratings'])} was of {before['model']}: it is replaced, and a run with --llm {before['model']} brings it back"
        )
    if args.fresh:
        storage.move_into_place(answers, files["answers"])
    with storage.atomic_write(files["ratings"]) as part:
        part.touch(mode=0o600)  # rare concepts may point to a person
        chosen[[*RATING_COLUMNS[:3], *ratings.rating_columns(settings.repeats), *RATING_COLUMNS[3:]]].to_csv(part, index=False)
    storage.write_json(files["summary"], found)
    stamp.record()
    return found


def has_no_ratings(found: dict) -> bool:
    return found["unparsed"] == found["ratings"]


def print_result(found: dict):
    """The figures as a short table."""

    def cell(share: dict) -> str:
        if share["share"] is None:
            return "-"
        return f"{share['share']:.2f}" + ("" if share["low"] is None else f" [{share['low']:.2f}, {share['high']:.2f}]")

    rows = [("", "names", "High", "Moderate or High")]
    rows += [(kind, str(found["features"].get(kind, "")), cell(found["high"][kind]), cell(found["moderate_or_high"][kind])) for kind in found["high"]]
    print_line(f"\n{found['outcome']}, {found['hospital']}: share of ratings by {found['model']}, 95 % intervals by feature")
    for name, count, high, either in rows:
        print_line(f"  {name.replace('_', ' '):<18}{count:>6}  {high:<22}{either}")
    figures = {"agreement of repeats (Krippendorff's alpha)": found["agreement"]} | {
        f"rank correlation with {measure}": values["all"] for measure, values in found["rank_correlation"].items()
    }
    print_line("  " + progress.format_figures({name: "-" if value is None else value for name, value in figures.items()}))
    if found["unparsed"]:
        print_line(
            f"  warning: {found['unparsed']:,} of {found['ratings']:,} ratings could not be read in the answers and are left out; "
            f"{found['answers']} has them as they came" + truncation_hint(found)
        )


def truncation_hint(found: dict) -> str:
    """What helps where answers broke off."""
    early = found.get("broken_off_early", 0)
    late, hint = found["broken_off"] - early, ""
    if late:
        hint += f"; {late:,} answers broke off at rating.max_tokens, which --set makes more"
    if early:
        hint += f"; {early:,} broke off before rating.max_tokens, where the server's context ends: a smaller --batch or a longer context there helps"
    return hint


def check_any_rating(found: dict[str, dict]):
    """A model that gave no rating at all has measured nothing, which is an error, and one of its answers says why."""
    nothing = [outcome for outcome, of in found.items() if has_no_ratings(of)]
    if nothing:
        sample_answer = " ".join(found[nothing[0]]["said"].split())
        raise UserError(
            f"{found[nothing[0]]['model']} gave no rating that could be read for {', '.join(nothing)}: it answered, for one, "
            f"{sample_answer!r}, and {found[nothing[0]]['answers']} has all answers as they came; --llm takes a model that is tuned to "
            "instructions, as MedGemma's -it, and --base-url a server that has one" + truncation_hint(found[nothing[0]])
        )


# ---- the stage -----------------------------------------------------------------------------------------------


def find_run_folders(args, home: str, head: str) -> dict[str, Path]:
    """{outcome: the run's folder}; whatever lacks is said with the command that writes it, before any work."""

    def folder_of(outcome: str) -> Path:
        return contract.finetuning_folder(home, args.model, args.rep, outcome, args.seed, head, args.variant)

    command = f"python experiments/finetune.py --model {args.model} --rep-type {args.rep}" + (f" --head {head}" if head != "linear" else "")
    more = f" --seeds {args.seed}" + (f" --external {args.ex}" if args.ex != home else "") + " --extract-attention-score"
    more += f" (with the flags that make it {args.variant})" if args.variant else ""
    if args.outcome == ["all"]:
        runs, run = folder_of("any").parents[1], folder_of("any").name
        there = sorted(path.name for path in runs.glob("*") if contract.attention_file(path / run, args.ex).exists())
        if not there:
            raise UserError(
                f"{contract.display_path(runs)} has no features of {args.ex} for seed {args.seed}; {command} --outcome all{more} writes them"
            )
    else:
        there = [text if "/" not in text and folder_of(text).is_dir() else outcomes.find_outcome(text).name for text in args.outcome]
    found = {outcome: folder_of(outcome) for outcome in there}
    missing = {
        outcome: path
        for outcome, folder in found.items()
        for path in (contract.features_file(folder, args.ex), contract.attention_file(folder, args.ex))
        if not path.exists()
    }
    if missing:
        others = {path.stem.removeprefix("attention_") for outcome in missing for path in found[outcome].glob("attention_*.parquet")} - {args.ex}
        are = ("is missing" if len(missing) == 1 else "are missing") + (f" (features of {', '.join(sorted(others))} are there)" if others else "")
        raise UserError(
            f"{', '.join(contract.display_path(path) for path in missing.values())} {are}; {command} --outcome {' '.join(missing)}{more} writes "
            f"{'it' if len(missing) == 1 else 'them'}"
        )
    return found


def rating_settings(args) -> RatingConfig:
    settings = config.load("rating", args.overrides)
    from_flags = {"model": args.llm, "features": args.features, "repeats": args.repeats, "batch": args.batch}
    settings = replace(settings, **{name: value for name, value in from_flags.items() if value is not None})
    least = dict.fromkeys(("features", "min_persons", "repeats", "batch", "tries", "prompts_at_once", "concurrency"), 1)
    least |= dict.fromkeys(("retries", "max_tokens"), 0)
    wrong = [f"{name} is {getattr(settings, name)}: it must be {low} or more" for name, low in least.items() if getattr(settings, name) < low]
    if settings.timeout_s <= 0:
        wrong.append(f"timeout_s is {settings.timeout_s:g}: it must be above 0")
    if args.base_url and urlsplit(args.base_url).scheme not in ("http", "https"):
        wrong.append(f"--base-url is {args.base_url}: write http://HOST:PORT/v1 or https://...")
    if wrong:
        raise UserError("rating: " + "; ".join(wrong))
    return settings


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="behrt", help="the patient model, one of configs/models")
    representations.add_rep_argument(parser, "--rep")
    parser.add_argument("--head", choices=["linear", "tied"], help="which pretrained model; default model.head")
    parser.add_argument(
        "--variant",
        default="",
        metavar="NAME",
        help="how the run was trained otherwise, as results/summary.csv calls it, such as aug4x0.8; default: plainly",
    )
    parser.add_argument("--outcome", nargs="+", default=["MT"], metavar="OUTCOME", help="one or several, or all whose features were extracted")
    parser.add_argument("--seed", type=int, default=100, help="of the finetuned run, and of controls and orders")
    parser.add_argument("--ex", default="mimic", metavar="HOSPITAL", help="whose features")
    parser.add_argument("--llm", metavar="ID_OR_FOLDER", help="the language model; default rating.model")
    parser.add_argument("--base-url", default="", metavar="URL", help="of an OpenAI-compatible server that has it; default: it runs here")
    parser.add_argument("--features", type=int, metavar="N", help="how many of the top features; default rating.features")
    parser.add_argument("--repeats", type=int, metavar="N", help="how often each is rated; default rating.repeats")
    parser.add_argument("--batch", type=int, metavar="N", help="features of a prompt; default rating.batch")
    parser.add_argument("--fresh", action="store_true", help="ask all again, even what is answered")
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    settings, prompt_texts = rating_settings(args), read_rating_prompt()
    cohort = config.load("cohort", args.overrides)
    head = args.head or config.load_experiment(args.model, args.overrides).model.head
    with timed_stage("medgemma") as figures:
        folders, rater, all_found = find_run_folders(args, cohort.home, head), Rater(settings, args.base_url), {}
        for outcome, folder in folders.items():
            found = all_found[outcome] = rate_outcome(folder, outcome, args, settings, rater, prompt_texts, cohort)
            files = contract.rating_files(folder, args.ex)
            print_result(found)
            print_line(f"  {contract.display_path(files['ratings'])}: a row a feature; {files['summary'].name}: the figures")
            figures[outcome] = {name: found[name] for name in ("ratings", "unparsed", "requests")}
        check_any_rating(all_found)


if __name__ == "__main__":
    main()
