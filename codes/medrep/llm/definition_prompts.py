"""Definitions by a language model: what is asked for each concept, and which answers are there.

Prompts are configs/prompts/*.txt. A prompt that several concepts share is asked once.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from medrep import config, contract
from medrep.cdm import engine, spill
from medrep.errors import UserError
from medrep.llm import answer_file, chat_requests
from medrep.llm.chat_requests import Request
from medrep.settings import DefinitionsConfig
from medrep.vectors.concept_index import PartitionedIndex
from medrep.vocabulary import definition_template
from medrep.vocabulary.concept_facts import VocabularyReader
from medrep.vocabulary.token_vocabulary import ORDINALS

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


def format_prompt(prompts: dict[str, str], prompt: str, name: str, decile: int) -> str:
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
    keys = [chat_requests.request_key(prompts[COMMON], format_prompt(prompts, prompt, name, decile), settings) for _, decile, prompt, name in rows]
    columns = [pa.array(column) for column in zip(*rows, strict=True)]
    return pa.table([pa.array([part] * len(rows)), *columns, pa.array(keys)], schema=QUESTION_SCHEMA)


class Questions:
    """What is asked of the language model for an index, and what it has answered so far, in tables on the disk.

    They are joined in `local`, always DuckDB: the index fits one machine whatever engine reads the vocabulary.
    """

    def __init__(
        self, local: ibis.BaseBackend, index: PartitionedIndex, vocabulary: VocabularyReader, settings: DefinitionsConfig, decile_calls: bool
    ):
        self.local, self.settings, self.prompts = local, settings, read_prompts()
        names, file = vocabulary.names_by_part(index.concepts), Path(spill.temporary_folder()) / "questions.parquet"
        with pq.ParquetWriter(file, QUESTION_SCHEMA) as writer:
            for part in index.parts:
                _, plain, decile = index.part_rows(part)
                deciles = [(c, d) for c, d in zip(plain, decile, strict=True) if d >= 0] if decile_calls else []
                writer.write_table(make_questions(names(part), deciles, part, self.prompts, settings))
        self.table = local.read_parquet(str(file))
        self.distinct = int(self.table.key.nunique().execute())

    def answers(self) -> ibis.Table:
        return answer_file.read_answers(self.local, contract.answers_file())

    def unanswered(self) -> ibis.Table:
        """The rows without an answer."""
        answers = self.answers()
        return self.table.anti_join(answers.filter(answers.text.notnull()), "key")

    def pending_requests(self) -> tuple[int, Callable[[], Iterator[Request]]]:
        """How many requests are open, each prompt counted once, and a function that goes through them."""
        parked = engine.materialize_as_parquet(
            self.local, self.unanswered().select("key", "prompt", "name", "decile").distinct(on="key", keep="first")
        )

        def requests() -> Iterator[Request]:
            for batch in parked.to_pyarrow_batches(chunk_size=10_000):
                for key, prompt, name, decile in zip(*(batch.column(n).to_pylist() for n in ("key", "prompt", "name", "decile")), strict=True):
                    yield Request(key, self.prompts[COMMON], format_prompt(self.prompts, prompt, name, decile))

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
            rows = by_part.part(part).order_by(ibis.desc("time")).to_pyarrow()
            columns = (rows[n].to_pylist() for n in ("concept_id", "decile", "name", "key", "text"))
            return {(concept, decile): (name, key, text) for concept, decile, name, key, text in zip(*columns, strict=True)}

        return answers_of


def by_model(answers: dict, concept: int, decile: int, model: str) -> dict | None:
    """text, writer, model and key of a row; a decile that was not asked for is composed. None where there is no answer."""
    if own := answers.get((concept, decile)):
        _, key, text = own
    elif decile >= 0 and (whole := answers.get((concept, -1))):
        name, key, definition = whole
        text = f"{name} ({ORDINALS[decile]} decile). {definition_template.decile_sentence(decile)} {definition}"
        key = definition_template.hash_of(key, text)
    else:
        return None
    return {"text": text, "writer": "openai", "model": model, "key": key}
