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
in twenty stays unsaid (concept_vectors.held_out_mask), for evaluate.py to ask for.

The openai writer asks any OpenAI-compatible endpoint (OPENAI_BASE_URL, OPENAI_API_KEY). Only prompts and concept names are
sent. Every answer is kept in answers.jsonl under a hash of what was sent, so nothing is asked twice: a killed run continues,
and a new release of the vocabulary asks for new names only. A measurement is asked once and its deciles are composed;
--decile-calls asks for each decile, as the paper does. What has no usable answer after some tries is listed, and ends the
stage, unless --fill-failed template lets the template writer define it.
"""

import argparse
import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medrep import config, contract, storage
from medrep.cdm import engine, spill, table_files
from medrep.cdm.sources import athena
from medrep.errors import UserError
from medrep.llm import chat
from medrep.progress import print_line, progress_bar, timed_stage
from medrep.settings import DefinitionsConfig
from medrep.stamps import Stamp
from medrep.tables import DEFINITIONS
from medrep.vectors import concept_vectors
from medrep.vectors.texts import ORDINALS

WRITERS = ("template", "openai")
TEMPLATE = "template-3"  # part of every key: raise it when the template changes
MAX_NAMES_OF_A_KIND = 4  # names of one kind in a definition: the paper asks for minimal definitions, under five sentences
ENGLISH = "4180186"
DECILE_WORDS = (
    "very low",
    "low",
    "below usual",
    "slightly below usual",
    "about the middle",
    "about the middle",
    "slightly above usual",
    "above usual",
    "high",
    "very high",
)
CONCEPTS_PER_PART = 200_000  # rows of the index that are worked on at a time: what Python holds of them is about 0.5 GB
MAX_FAILURES_SHOWN = 20  # failed concepts that are named in the output; the file names all

# What a relationship says of its first concept, in the order of the definition. Concepts' other relationships
# (mappings, versions, brands, panels) join vocabularies rather than say what a concept means: they are edges only.
PHRASES = {
    "Is a": "a kind of",
    "RxNorm is a": "a kind of",
    "RxNorm has ing": "with the ingredient",
    "Has precise ing": "with the ingredient",
    "RxNorm has dose form": "given as",
    "Consists of": "consisting of",
    "Tradename of": "a brand of",
    "RxNorm - ATC": "in the class",
    "RxNorm - ATC pr lat": "in the class",
    "RxNorm - ATC pr up": "in the class",
    "Has finding site": "at the site",
    "Has asso morph": "with the morphology",
    "Has causative agent": "caused by",
    "Has due to": "due to",
    "Has method": "by the method",
    "Has dir proc site": "at the site",
    "Has proc site": "at the site",
    "Has dir morph": "on the morphology",
    "Has component": "of the component",
    "Has system": "in the specimen",
    "Has property": "as the property",
    "Has scale type": "on the scale",
    "Has interprets": "interpreting",
}


# ---- the index and the vocabulary, part by part ------------------------------------------------------------


@dataclass(frozen=True)
class Index:
    """The rows of concept_idx.csv, cut into parts; all rows of a concept are in one part."""

    ids: pa.Array
    plain: np.ndarray
    decile: np.ndarray
    part: np.ndarray
    """int64 (rows,), as are plain and decile (-1 for a plain concept)."""
    concepts: pa.Table
    """concept_id and part of each concept, once."""

    @property
    def parts(self) -> range:
        return range(int(self.part.max(initial=-1)) + 1)

    def rows(self, part: int) -> tuple[pa.Array, list[int], list[int]]:
        """ids, concept and decile of the rows of a part."""
        rows = np.flatnonzero(self.part == part)
        return self.ids.take(rows), self.plain[rows].tolist(), self.decile[rows].tolist()


def cut_index(ids: pa.Array) -> Index:
    plain, decile = concept_vectors.split_deciles(ids)
    concept, first, place = np.unique(plain, return_index=True, return_inverse=True)
    _, part = np.unique(first // CONCEPTS_PER_PART, return_inverse=True)  # a part that holds deciles only is none
    return Index(ids, plain, decile, part[place], pa.table({"concept_id": concept, "part": part}))


def find_names(concept: ibis.Table, wanted: ibis.Table) -> ibis.Table:
    """concept_id, concept_name, domain_id, concept_class_id and part of the wanted concepts."""
    return concept.select("concept_id", "concept_name", "domain_id", "concept_class_id").inner_join(wanted, "concept_id")


def find_features(relationship: ibis.Table, concept: ibis.Table, wanted: ibis.Table) -> ibis.Table:
    """concept_id, relationship_id, the other concept and its name, and part, for the relationships that PHRASES puts in words."""
    valid = athena.valid_rows(relationship)
    valid = valid.filter(valid.relationship_id.isin(list(PHRASES)) & (valid.concept_id_1 != valid.concept_id_2))
    valid = valid.select("relationship_id", concept_id="concept_id_1", other="concept_id_2").inner_join(wanted, "concept_id")
    names = concept.select(other="concept_id", name="concept_name")
    return valid.inner_join(names, "other").select("concept_id", "relationship_id", "other", "name", "part")


def without_held_out(features: pa.Table) -> pa.Table:
    """The features without the pairs that evaluate.py asks for: a text that says them has read the answers."""
    held = concept_vectors.held_out_mask(features["concept_id"].to_numpy(), features["other"].to_numpy())
    return features.filter(pa.array(~held))


def find_synonyms(synonym: ibis.Table, wanted: ibis.Table) -> ibis.Table:
    """concept_id, English name and part; a row without a language counts as English."""
    if "language_concept_id" in synonym.columns:
        language = synonym.language_concept_id.cast("string")
        synonym = synonym.filter(language.isnull() | language.isin([ENGLISH, "0"]))
    synonym = synonym.select("concept_id", name="concept_synonym_name").filter(lambda t: t.name.notnull())
    return synonym.inner_join(wanted, "concept_id")


class Vocabulary:
    """data/concepts, laid apart once by the parts of the index, so that memory holds one part at a time."""

    def __init__(self, con: ibis.BaseBackend):
        self.con = con
        self.concept = engine.materialize_as_parquet(
            con, athena.read_vocabulary_table(con, "concept").select("concept_id", "concept_name", "domain_id", "concept_class_id")
        )

    def names(self, wanted: pa.Table) -> Callable[[int], pa.Table]:
        """What find_names says of the wanted concepts, by part."""
        by_part = engine.partition_by(self.con, find_names(self.concept, ibis.memtable(wanted)), "part")

        def names_of(part: int) -> pa.Table:
            names, asked = by_part(part).to_pyarrow(), wanted["concept_id"].to_numpy()[wanted["part"].to_numpy() == part]
            if len(lacking := np.setdiff1d(asked, names["concept_id"].to_numpy())):
                raise UserError(
                    f"data/concepts/CONCEPT lacks {len(lacking):,} concepts of {contract.concept_index_file().name}, such as "
                    f"{lacking[0]}: representation/concepts.py writes it anew"
                )
            return names

        return names_of

    def facts(self, wanted: pa.Table) -> Callable[[int], dict[int, dict]]:
        """What gather_facts says of the wanted concepts, by part."""
        table, synonym = ibis.memtable(wanted), athena.read_vocabulary_table(self.con, "concept_synonym")
        names = self.names(wanted)
        features = engine.partition_by(
            self.con, find_features(athena.read_vocabulary_table(self.con, "concept_relationship"), self.concept, table), "part"
        )
        synonyms = None if synonym is None else engine.partition_by(self.con, find_synonyms(synonym, table), "part")
        return lambda part: gather_facts(names(part), without_held_out(features(part).to_pyarrow()), synonyms and synonyms(part).to_pyarrow())


# ---- the template writer -----------------------------------------------------------------------------------


def decile_sentence(decile: int) -> str:
    return f"A value in the {ORDINALS[decile]} of ten tenths of all values: {DECILE_WORDS[decile]}."


def define(facts: dict, decile: int = -1) -> str:
    """The text of a concept: `facts` has name, domain, kind (its class), synonyms, and features as {phrase: names}.

    The name and the decile come first: an encoder that cuts a long text keeps its beginning.
    """
    name, kind = facts["name"], facts["kind"].lower()
    domain = facts["domain"].lower()
    # a class such as "ICD9CM code" says who coded, not what
    what = domain if kind in ("", domain) or kind.endswith("code") else f"{domain} ({kind})"
    sentences = [f"{name}: {what}."]
    if decile >= 0:
        sentences = [f"{name} ({ORDINALS[decile]} decile): {what}.", decile_sentence(decile)]
    if facts["features"]:
        parts = [f"{phrase} {' and '.join(names[:MAX_NAMES_OF_A_KIND])}" for phrase, names in facts["features"].items()]
        sentences.append(f"It is {', '.join(parts)}.")
    if facts["synonyms"]:
        sentences.append(f"Also called {', '.join(facts['synonyms'][:MAX_NAMES_OF_A_KIND])}.")
    return " ".join(sentences)


def gather_facts(concept: pa.Table, features: pa.Table, synonyms: pa.Table | None) -> dict[int, dict]:
    """{concept_id: facts}, names in a fixed order and once each, so that the order of rows in the files changes nothing."""
    facts = {}
    rows = (concept[name].to_pylist() for name in ("concept_id", "concept_name", "domain_id", "concept_class_id"))
    for concept_id, name, domain, kind in zip(*rows, strict=True):
        facts[concept_id] = {"name": name or str(concept_id), "domain": domain or "", "kind": kind or "", "synonyms": set(), "features": {}}
    for concept_id, relationship, name in zip(*(features[n].to_pylist() for n in ("concept_id", "relationship_id", "name")), strict=True):
        if name:
            facts[concept_id]["features"].setdefault(PHRASES[relationship], set()).add(name)
    if synonyms is not None:
        for concept_id, name in zip(synonyms["concept_id"].to_pylist(), synonyms["name"].to_pylist(), strict=True):
            # LOINC's synonyms are also lists of key words, `Chemistry; Level; Pl; Qn`: not names
            if name.lower() != facts[concept_id]["name"].lower() and name.count(";") < 2:
                facts[concept_id]["synonyms"].add(name)
    order = list(dict.fromkeys(PHRASES.values()))
    for fact in facts.values():
        # the shortest synonyms are the everyday names; fully specified ones repeat the name
        fact["synonyms"] = sorted(fact["synonyms"], key=lambda name: (len(name), name))
        fact["features"] = {phrase: sorted(fact["features"][phrase]) for phrase in order if phrase in fact["features"]}
    return facts


def hash_of(*parts) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:32]


def by_template(facts: dict, decile: int) -> dict:
    """text, writer, model and key: a hash of what the text is made from and of the writer, so that the same key is the same text."""
    return {"text": define(facts, decile), "writer": "template", "model": "", "key": hash_of(TEMPLATE, facts, decile)}


# ---- the language model's prompts --------------------------------------------------------------------------

PROMPTS = {"Condition": "condition", "Drug": "drug", "Measurement": "measurement", "Procedure": "procedure"}
OTHER, DECILE, COMMON = "other", "measurement_decile", "common"
QUESTION_SCHEMA = pa.schema(
    {"part": pa.int64(), "concept_id": pa.int64(), "decile": pa.int64(), "prompt": pa.string(), "name": pa.string(), "key": pa.string()}
)


def read_prompts() -> dict[str, str]:
    """{name: text} of configs/prompts/*.txt."""
    prompts = {name: config.read_config_text(f"prompts/{name}.txt") for name in (*PROMPTS.values(), OTHER, DECILE, COMMON)}
    wrong = [f"configs/prompts/{name}.txt does not say {{name}}" for name, text in prompts.items() if name != COMMON and "{name}" not in text]
    if "{ordinal}" not in prompts[DECILE]:
        wrong.append(f"configs/prompts/{DECILE}.txt does not say {{ordinal}}")
    if wrong:
        raise UserError("; ".join(wrong) + ": that is where the concept's name (1st, 2nd, ...) goes")
    return prompts


def ask_for(prompts: dict[str, str], prompt: str, name: str, decile: int) -> str:
    """The text of a prompt; the name comes last, for it may say {ordinal} itself."""
    text = prompts[prompt] if decile < 0 else prompts[prompt].replace("{ordinal}", ORDINALS[decile])
    return text.replace("{name}", name)


def make_questions(names: pa.Table, deciles: list[tuple[int, int]], part: int, prompts: dict[str, str], settings: DefinitionsConfig) -> pa.Table:
    """What is asked for the concepts of a part, and for those (concept, decile) in `deciles`: QUESTION_SCHEMA."""
    of = {
        concept: (name or str(concept), PROMPTS.get(domain, OTHER))
        for concept, name, domain in zip(*(names[n].to_pylist() for n in ("concept_id", "concept_name", "domain_id")), strict=True)
    }
    rows = [(concept, -1, prompt, name) for concept, (name, prompt) in of.items()]
    rows += [(concept, decile, DECILE, of[concept][0]) for concept, decile in deciles]
    keys = [chat.request_key(prompts[COMMON], ask_for(prompts, prompt, name, decile), settings) for _, decile, prompt, name in rows]
    columns = [pa.array(column) for column in zip(*rows, strict=True)]
    return pa.table([pa.array([part] * len(rows)), *columns, pa.array(keys)], schema=QUESTION_SCHEMA)


class Questions:
    """What is asked of the language model for an index, and what it has answered so far, in tables on the disk.

    They are joined in `local`, always DuckDB: the index fits one machine whatever engine reads the vocabulary.
    """

    def __init__(self, local: ibis.BaseBackend, index: Index, vocabulary: Vocabulary, settings: DefinitionsConfig, decile_calls: bool):
        self.local, self.settings, self.prompts = local, settings, read_prompts()
        names, file = vocabulary.names(index.concepts), Path(spill.temporary_folder()) / "questions.parquet"
        with pq.ParquetWriter(file, QUESTION_SCHEMA) as writer:
            for part in index.parts:
                _, plain, decile = index.rows(part)
                deciles = [(c, d) for c, d in zip(plain, decile, strict=True) if d >= 0] if decile_calls else []
                writer.write_table(make_questions(names(part), deciles, part, self.prompts, settings))
        self.table = local.read_parquet(str(file))
        self.distinct = int(self.table.key.nunique().execute())

    def answers(self) -> ibis.Table:
        return chat.read_answers(self.local, contract.answers_file())

    def unanswered(self) -> ibis.Table:
        """The rows without an answer."""
        answers = self.answers()
        return self.table.anti_join(answers.filter(answers.text.notnull()), "key")

    def to_ask(self) -> tuple[int, Callable[[], Iterator[chat.Request]]]:
        """How many requests are open, each prompt counted once, and a function that goes through them."""
        parked = engine.materialize_as_parquet(
            self.local, self.unanswered().select("key", "prompt", "name", "decile").distinct(on="key", keep="first")
        )

        def requests() -> Iterator[chat.Request]:
            for batch in parked.to_pyarrow_batches(chunk_size=10_000):
                for key, prompt, name, decile in zip(*(batch.column(n).to_pylist() for n in ("key", "prompt", "name", "decile")), strict=True):
                    yield chat.Request(key, self.prompts[COMMON], ask_for(self.prompts, prompt, name, decile))

        return int(parked.count().execute()), requests

    def failures(self) -> ibis.Table:
        """number, decile, concept_id as in the index, name and reason of the rows without an answer."""
        answers = self.answers()
        why = answers.filter(answers.failed.notnull()).group_by("key").agg(reason=answers.failed.argmax(answers.time))
        rows = self.unanswered().left_join(why, "key")
        number = rows.concept_id.cast("string")
        return rows.select(
            "decile",
            "name",
            number="concept_id",
            reason=ibis.coalesce(rows.reason, "not answered yet"),
            concept_id=ibis.ifelse(rows.decile < 0, number, number + "_" + rows.decile.cast("string")),
        )

    def answers_by_part(self) -> Callable[[int], dict[tuple[int, int], tuple[str, str, str]]]:
        """{(concept, decile): (name, key, answer)} by part."""
        answers = self.answers()
        answers = answers.filter(answers.text.notnull()).select("key", "time", "text")
        rows = self.table.inner_join(answers, "key").select("part", "concept_id", "decile", "name", "key", "time", "text")
        by_part = engine.partition_by(self.local, rows, "part")

        def answers_of(part: int) -> dict:
            # a batch collected twice answers twice: the first answer stays, so that a text never changes
            rows = by_part(part).order_by(ibis.desc("time")).to_pyarrow()
            columns = (rows[n].to_pylist() for n in ("concept_id", "decile", "name", "key", "text"))
            return {(concept, decile): (name, key, text) for concept, decile, name, key, text in zip(*columns, strict=True)}

        return answers_of


def by_model(answers: dict, concept: int, decile: int, model: str) -> dict | None:
    """text, writer, model and key of a row; a decile that was not asked for is composed. None where there is no answer."""
    if own := answers.get((concept, decile)):
        _, key, text = own
    elif decile >= 0 and (whole := answers.get((concept, -1))):
        name, key, definition = whole
        text = f"{name} ({ORDINALS[decile]} decile). {decile_sentence(decile)} {definition}"
        key = hash_of(key, text)
    else:
        return None
    return {"text": text, "writer": "openai", "model": model, "key": key}


# ---- composing -----------------------------------------------------------------------------------------------


def compose(con: ibis.BaseBackend, index: Index, write_part: Callable[[int], Callable[[int, int], dict]]) -> int:
    """Write DEFINITIONS part by part; `write_part` gives the function that defines (concept, decile) of a part."""
    with DEFINITIONS.write_in_parts(con) as add, progress_bar(what="definitions", total=len(index.ids), unit="texts") as progress:
        for part in index.parts:
            ids, plain, decile = index.rows(part)
            write = write_part(part)
            written = [write(c, d) for c, d in zip(plain, decile, strict=True)]
            columns = {name: [row[name] for row in written] for name in ("text", "writer", "model", "key")}
            add(ibis.memtable(pa.table({"concept_id": ids, **columns}), schema=DEFINITIONS.schema))
            progress.update(len(ids))
    return DEFINITIONS.print_row_count(con)


def write_by_template(con, index: Index, figures: dict):
    facts_of, counts = Vocabulary(con).facts(index.concepts), Counter()

    def write_part(part: int):
        facts = facts_of(part)
        counts.update(
            concepts=len(facts),
            with_features=sum(bool(f["features"]) for f in facts.values()),
            with_synonyms=sum(bool(f["synonyms"]) for f in facts.values()),
        )
        return lambda concept, decile: by_template(facts[concept], decile)

    rows = compose(con, index, write_part)
    figures.update(rows=rows, with_features=counts["with_features"], with_synonyms=counts["with_synonyms"])
    print_line(
        f"of {counts['concepts']:,} concepts {counts['with_features']:,} have parents or other features, {counts['with_synonyms']:,} have synonyms"
    )


def write_by_model(con, questions: Questions, vocabulary: Vocabulary, index: Index, figures: dict):
    """Definitions from the answers; the template writer's where there are none."""
    lacking = questions.unanswered().select("concept_id").distinct().to_pyarrow()["concept_id"].to_numpy()
    wanted = index.concepts.filter(pa.array(np.isin(index.concepts["concept_id"].to_numpy(), lacking)))
    answers_of, facts_of, counts = questions.answers_by_part(), vocabulary.facts(wanted) if len(lacking) else lambda part: {}, Counter()

    def write_part(part: int):
        answers, facts = answers_of(part), facts_of(part)

        def write(concept: int, decile: int) -> dict:
            row = by_model(answers, concept, decile, questions.settings.model) or by_template(facts[concept], decile)
            counts[row["writer"]] += 1
            return row

        return write

    figures.update(rows=compose(con, index, write_part), by_openai=counts["openai"], by_template=counts["template"])
    print_line(f"{counts['openai']:,} definitions by {questions.settings.model}, {counts['template']:,} by the template writer")


# ---- the openai writer's run -------------------------------------------------------------------------------


def say_cost(questions: Questions, calls: int, requests: Iterator[chat.Request], price: tuple[float, float] | None, figures: dict):
    """What asking would take; asks nothing."""
    _, tokens_in = chat.estimate_tokens(requests)
    answers = questions.answers()
    seen = answers.filter(answers.text.notnull() & (answers.output_tokens > 0)).output_tokens.mean().execute()
    known = seen is not None and seen == seen
    tokens_out = round(calls * (float(seen) if known else chat.TOKENS_PER_ANSWER))
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


def answer(questions: Questions, args, figures: dict) -> bool:
    """Get the answers in the way that the flags say; whether definitions can be written now."""
    if args.batch_results:
        with chat.AnswerFile(contract.answers_file()) as answers:
            counts = chat.collect_batch(args.batch_results, answers, questions.settings)
        if not counts:
            raise UserError(
                f"{', '.join(map(str, args.batch_results))}: no line is the result of a batch of ours; "
                "give the output and error files that the service wrote"
            )
        print_line("collected: " + ", ".join(f"{n:,} {what}" for what, n in counts.most_common()))
    calls, requests = questions.to_ask()
    print_line(f"{questions.distinct:,} different prompts, {questions.distinct - calls:,} of them answered")
    if args.dry_run:
        say_cost(questions, calls, requests(), args.price, figures)
        return False
    if calls and args.batch:
        files = chat.write_batch(requests(), contract.batch_folder(), questions.settings)
        figures.update(calls=calls, files=len(files))
        print_line(
            f"{contract.display_path(contract.batch_folder())}: {calls:,} requests in {len(files)} files. Upload each with the purpose `batch`, start it for "
            f"{chat.BATCH_URL}, and give what comes back to --batch-results (https://developers.openai.com/api/docs/guides/batch)"
        )
        return False
    if calls and not args.batch_results:
        with chat.AnswerFile(contract.answers_file()) as answers:
            counts = chat.ask_all(requests(), calls, answers, questions.settings, chat.definition_parser(questions.settings))
        figures.update(calls=calls, answered=counts["answered"])
    if failed := questions.to_ask()[0] if calls else 0:
        words = report_failures(questions, failed)
        if not args.fill_failed:
            how = "--batch writes their requests again" if args.batch_results else "run again to ask those again"
            raise UserError(f"{words}; all other answers are kept: {how}, or add --fill-failed template to let the template writer define them")
        print_line(words)
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
    given = [
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
    if given and args.writer != "openai":
        raise UserError(f"{', '.join(given)}: only --writer openai takes that")
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

    if concept_vectors.published_representations():
        return
    ids = concept_vectors.read_concept_index()
    made_with = {"writer": args.writer, "template": TEMPLATE}
    if args.writer == "openai":
        made_with |= {
            "prompts": hash_of(read_prompts()),
            "body": chat.request_body("", "", settings),
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
        con, index = engine.connect(args.engine, args.memory, args.threads), cut_index(ids)
        if args.writer == "template":
            write_by_template(con, index, figures)
        else:
            vocabulary = Vocabulary(con)
            questions = Questions(engine.file_reader(con), index, vocabulary, settings, args.decile_calls)
            if not answer(questions, args, figures):
                return
            write_by_model(con, questions, vocabulary, index, figures)
        stamp.record()


if __name__ == "__main__":
    main()
