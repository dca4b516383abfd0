"""Write a definition of every concept.

    cd codes
    python representation/definitions.py                                        # from the vocabulary itself
    python representation/definitions.py --writer openai --dry-run --price 0.15,0.6      # what a language model would cost
    python representation/definitions.py --writer openai                        # by a language model
    python representation/definitions.py --writer openai --batch                # or by OpenAI's Batch service: write its files,
    python representation/definitions.py --writer openai --batch-results output.jsonl errors.jsonl           # collect its results

Reads   usedata/representation/concept_idx.csv, data/concepts (CONCEPT, CONCEPT_RELATIONSHIP, CONCEPT_SYNONYM if it is there),
        configs/definitions.yaml and configs/prompts (openai)
Writes  usedata/representation/definitions; and, with openai, answers.jsonl, definitions_failed.csv and batch/ beside it

The template writer composes the text from the vocabulary, without a network: name, domain and class, synonyms, parents and
what else characterizes a concept (ingredient, form, finding site, specimen), and for a decile what it says. One relationship
in twenty stays unsaid (holdout.held_out_mask), for evaluate.py to ask for.

The openai writer asks any OpenAI-compatible endpoint (OPENAI_BASE_URL, OPENAI_API_KEY). Only prompts and concept names are
sent. Every answer is kept in answers.jsonl under a hash of what was sent, so nothing is asked twice: a killed run continues,
and a new release of the vocabulary asks for new names only. A measurement is asked once and its deciles are composed;
--decile-calls asks for each decile, as the paper does. What has no usable answer after some tries is listed, and ends the
stage, unless --fill-failed template lets the template writer define it.
"""

import argparse
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa

from medrep import config, contract, storage
from medrep.cdm import engine, table_files
from medrep.cdm.sources import athena
from medrep.errors import UserError
from medrep.llm import chat_client, chat_requests, definition_prompts, openai_batch, replies
from medrep.llm.answer_file import AnswerFile
from medrep.llm.chat_requests import Request
from medrep.llm.definition_prompts import Questions
from medrep.progress import print_line, progress_bar, timed_stage
from medrep.settings import DefinitionsConfig
from medrep.stamps import Stamp
from medrep.tables import DEFINITIONS
from medrep.vectors import concept_index, published
from medrep.vectors.concept_index import PartitionedIndex
from medrep.vocabulary import definition_template
from medrep.vocabulary.concept_facts import VocabularyReader

WRITERS = ("template", "openai")
MAX_FAILURES_SHOWN = 20  # failed concepts that are named in the output; the file names all


# ---- writing -------------------------------------------------------------------------------------------------


def write_definitions(con: ibis.BaseBackend, index: PartitionedIndex, write_part: Callable[[int], Callable[[int, int], dict]]) -> int:
    """Write DEFINITIONS part by part; `write_part` gives the function that defines (concept, decile) of a part."""
    with DEFINITIONS.write_in_parts(con) as add, progress_bar(description="definitions", total=len(index.ids), unit="texts") as progress:
        for part in index.parts:
            ids, plain, decile = index.part_rows(part)
            write = write_part(part)
            written = [write(c, d) for c, d in zip(plain, decile, strict=True)]
            columns = {name: [row[name] for row in written] for name in ("text", "writer", "model", "key")}
            add(ibis.memtable(pa.table({"concept_id": ids, **columns}), schema=DEFINITIONS.schema))
            progress.update(len(ids))
    return DEFINITIONS.print_row_count(con)


def write_by_template(con, index: PartitionedIndex, figures: dict):
    facts_of, counts = VocabularyReader(con).facts_by_part(index.concepts), Counter()

    def write_part(part: int):
        facts = facts_of(part)
        counts.update(
            concepts=len(facts),
            with_features=sum(bool(f["features"]) for f in facts.values()),
            with_synonyms=sum(bool(f["synonyms"]) for f in facts.values()),
        )
        return lambda concept, decile: definition_template.by_template(facts[concept], decile)

    rows = write_definitions(con, index, write_part)
    figures.update(rows=rows, with_features=counts["with_features"], with_synonyms=counts["with_synonyms"])
    print_line(
        f"of {counts['concepts']:,} concepts {counts['with_features']:,} have parents or other features, {counts['with_synonyms']:,} have synonyms"
    )


def write_by_model(con, questions: Questions, vocabulary: VocabularyReader, index: PartitionedIndex, figures: dict):
    """Definitions from the answers; the template writer's where there are none."""
    lacking = questions.unanswered().select("concept_id").distinct().to_pyarrow()["concept_id"].to_numpy()
    wanted = index.concepts.filter(pa.array(np.isin(index.concepts["concept_id"].to_numpy(), lacking)))
    answers_of, facts_of, counts = questions.answers_by_part(), vocabulary.facts_by_part(wanted) if len(lacking) else lambda part: {}, Counter()

    def write_part(part: int):
        answers, facts = answers_of(part), facts_of(part)

        def write(concept: int, decile: int) -> dict:
            row = definition_prompts.by_model(answers, concept, decile, questions.settings.model) or definition_template.by_template(
                facts[concept], decile
            )
            counts[row["writer"]] += 1
            return row

        return write

    figures.update(rows=write_definitions(con, index, write_part), by_openai=counts["openai"], by_template=counts["template"])
    print_line(f"{counts['openai']:,} definitions by {questions.settings.model}, {counts['template']:,} by the template writer")


# ---- the openai writer's run -------------------------------------------------------------------------------


def say_cost(questions: Questions, calls: int, requests: Iterator[Request], price: tuple[float, float] | None, figures: dict):
    """What asking would take; asks nothing."""
    _, tokens_in = chat_requests.estimate_tokens(requests)
    answers = questions.answers()
    mean = answers.filter(answers.text.notnull() & (answers.output_tokens > 0)).output_tokens.mean().execute()
    known = mean is not None and mean == mean
    tokens_out = round(calls * (mean if mean is not None and known else chat_requests.TOKENS_PER_ANSWER))
    figures.update(calls=calls, answered=questions.distinct - calls, input_tokens=tokens_in, output_tokens=tokens_out)
    print_line(
        f"{calls:,} calls of {questions.settings.model}; about {tokens_in:,} tokens in and {tokens_out:,} out "
        f"({'as the answers so far' if known else 'estimated from the length of the prompts'})"
    )
    if price:
        figures["cost"] = round((tokens_in * price[0] + tokens_out * price[1]) / 1e6, 2)
        print_line(f"cost at {price[0]:g} and {price[1]:g} per million tokens: {figures['cost']:,.2f}")


def report_failures(questions: Questions, prompts: int) -> str:
    """List the concepts without an answer in the output and in a file; gives that in a few words."""
    file, failures = contract.failed_definitions_file(), engine.materialize(questions.local, questions.failures())
    listed = failures.order_by("number", "decile").select("concept_id", "name", "reason")
    with storage.atomic_write(file) as part:
        questions.local.to_csv(listed, part)
    counts = failures.group_by("reason").agg(n=failures.count()).order_by(ibis.desc("n"), "reason").to_pyarrow().to_pylist()
    for row in listed.limit(MAX_FAILURES_SHOWN).to_pyarrow().to_pylist():
        print_line(f"  {row['concept_id']} {row['name']}: {row['reason']}")
    total, more = sum(row["n"] for row in counts), len(counts) - 5
    print_line(f"  {f'... {total - MAX_FAILURES_SHOWN:,} more: ' if total > MAX_FAILURES_SHOWN else ''}{contract.display_path(file)} lists all")
    reasons = ", ".join(f"{row['n']:,} {row['reason']}" for row in counts[:5]) + (f", {more} other reasons" if more > 0 else "")
    return f"{prompts:,} prompts, for {total:,} concepts, have no usable answer ({reasons}); {contract.display_path(file)} lists them"


def collect_answers(questions: Questions, args, figures: dict) -> bool:
    """Get the answers in the way that the flags say; gives whether definitions can be written now."""
    if args.batch_results:
        with AnswerFile(contract.answers_file()) as answers:
            counts = openai_batch.collect_batch(args.batch_results, answers, questions.settings)
        if not counts:
            raise UserError(
                f"{', '.join(map(str, args.batch_results))}: no line is the result of a batch of ours; "
                "give the output and error files that the service wrote"
            )
        print_line("collected: " + ", ".join(f"{n:,} {result}" for result, n in counts.most_common()))
    calls, requests = questions.pending_requests()
    print_line(f"{questions.distinct:,} different prompts, {questions.distinct - calls:,} of them answered")
    if args.dry_run:
        say_cost(questions, calls, requests(), args.price, figures)
        return False
    if calls and args.batch:
        files = openai_batch.write_batch(requests(), contract.batch_folder(), questions.settings)
        figures.update(calls=calls, files=len(files))
        print_line(
            f"{contract.display_path(contract.batch_folder())}: {calls:,} requests in {len(files)} files. Upload each with the purpose `batch`, start it for "
            f"{openai_batch.BATCH_URL}, and give what comes back to --batch-results (https://developers.openai.com/api/docs/guides/batch)"
        )
        return False
    if calls and not args.batch_results:
        with AnswerFile(contract.answers_file()) as answers:
            counts = chat_client.ask_all(requests(), calls, answers, questions.settings, replies.definition_parser(questions.settings))
        figures.update(calls=calls, answered=counts["answered"])
    if failed := questions.pending_requests()[0] if calls else 0:
        summary = report_failures(questions, failed)
        if not args.fill_failed:
            remedy = "--batch writes their requests again" if args.batch_results else "run again to ask those again"
            raise UserError(f"{summary}; all other answers are kept: {remedy}, or add --fill-failed template to let the template writer define them")
        print_line(summary)
    else:
        storage.remove_path(contract.failed_definitions_file())
    return True


def price_of(text: str) -> tuple[float, float]:
    try:
        price_in, price_out = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} (give two numbers, as 0.15,0.60)") from None
    return price_in, price_out


def check_flags(args, settings: DefinitionsConfig):
    openai_flags = [
        flag
        for flag, value in {
            "--model": args.model,
            "--concurrency": args.concurrency,
            "--decile-calls": args.decile_calls,
            "--fill-failed": args.fill_failed,
            "--batch": args.batch,
            "--batch-results": args.batch_results,
            "--dry-run": args.dry_run,
            "--price": args.price,
        }.items()
        if value
    ]
    if openai_flags and args.writer != "openai":
        raise UserError(f"{', '.join(openai_flags)}: only --writer openai takes that")
    if args.price and not args.dry_run:
        raise UserError("--price goes with --dry-run")
    if args.dry_run and args.batch_results:
        raise UserError("--dry-run keeps nothing, so it can't collect --batch-results: give one of the two")
    if settings.concurrency < 1 or settings.tries < 1 or settings.retries < 0 or settings.timeout_s <= 0:
        raise UserError("definitions: concurrency and tries must be 1 or more, retries 0 or more, timeout_s above 0")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writer", default="template", choices=WRITERS)
    parser.add_argument("--model", help="the language model; default definitions.model")
    parser.add_argument("--concurrency", type=int, metavar="N", help="requests at a time; default definitions.concurrency")
    parser.add_argument("--decile-calls", action="store_true", help="ask for each decile of a measurement, too")
    parser.add_argument("--fill-failed", choices=["template"], help="who defines what the model does not")
    parser.add_argument("--batch", action="store_true", help="write OpenAI Batch input files instead of asking")
    parser.add_argument("--batch-results", nargs="+", type=Path, default=[], metavar="FILE", help="collect a batch's output and error files")
    parser.add_argument("--dry-run", action="store_true", help="say how many calls and tokens it would take, and ask nothing")
    parser.add_argument("--price", type=price_of, metavar="IN,OUT", help="with --dry-run: cost of a million tokens in and out")
    engine.add_arguments(parser)
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    settings = config.load("definitions", args.overrides)
    settings = dataclasses.replace(
        settings, model=args.model or settings.model, concurrency=settings.concurrency if args.concurrency is None else args.concurrency
    )
    check_flags(args, settings)

    if published.published_representations():
        return
    ids = concept_index.read_concept_index()
    made_with = {"writer": args.writer, "template": definition_template.TEMPLATE}
    if args.writer == "openai":
        made_with |= {
            "prompts": definition_template.hash_of(definition_prompts.read_prompts()),
            "body": chat_requests.request_body("", "", settings),
            "decile_calls": args.decile_calls,
            "fill_failed": args.fill_failed,
        }
    stamp = Stamp(
        DEFINITIONS.at(),
        settings=made_with,
        inputs=[contract.concept_index_file(), *athena.input_files("concept", "concept_relationship", "concept_synonym")],
    )
    if not (args.dry_run or args.batch_results) and stamp.is_current():
        return
    with timed_stage("definitions") as figures, table_files.csv_errors_in_words():
        con, index = engine.connect(args.engine, args.memory, args.threads), concept_index.partition_index(ids)
        if args.writer == "template":
            write_by_template(con, index, figures)
        else:
            vocabulary = VocabularyReader(con)
            questions = Questions(engine.file_reader(con), index, vocabulary, settings, args.decile_calls)
            if not collect_answers(questions, args, figures):
                return
            write_by_model(con, questions, vocabulary, index, figures)
        stamp.record()


if __name__ == "__main__":
    main()
