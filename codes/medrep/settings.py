"""Every setting, its default and its reason: a dataclass for each file of configs/, with a sentence under each field.

config.py reads the files. The paper's numbers are in arXiv 2504.08329, sections 3 and 4.
"""

import re
from dataclasses import dataclass, field

from medrep.relationships import HIERARCHICAL, MAPPING


@dataclass(frozen=True)
class CohortConfig:
    """configs/cohort.yaml: who and what is kept, and what the outcomes mean; configs/cohort-paper.yaml: as published.

    No cohort takes a visit without a known end for one that ends on its first day: its bills would be known on the day it began, also where they
    count at_discharge, and it may have been the longest stay of all. Nor does another column's number stand in for a value that can't be read: it
    may be of another unit, or another result.
    """

    home: str = "mimic"
    """The hospital whose train persons everything is fitted on; its valid persons say when to stop."""
    split_shares: dict[str, float] = field(default_factory=lambda: {"train": 0.70, "valid": 0.15, "test": 0.15})
    """Shares of persons, by a hash of the person's source id: new rows, ids or engines move no one."""
    split_seed: int = 0
    min_age: int = 18
    """Events (and admissions) at a younger age are left out."""
    max_age: int = 100
    """Admissions at an older age are left out."""
    max_years_outside_visits: float = 20
    """Events, visits and deaths so long before or after the hospital's visits (all but the first and last hundredth) have a wrong date and
    are left out; 0 keeps all."""
    max_unreadable_times: float = 0.05
    """A larger share of a table's rows with a datetime that can't be read, beside a date that can, stops the stage that reads it; at 1 they are
    counted and said."""
    midnight_columns: str = "days"
    """A column of which more than half of the times are 00:00:00 tells days; or, as published, times like any other, so that a death at noon of the
    day of discharge is none in the stay, and what is known by its day only is seen before that day, which leaks."""
    values: str = "with_operators"
    """with_operators: `<0.5` is the value 0.5 and its operator. numbers_alone: it is no number, and counted among the texts that are none."""
    deaths: str = "latest_plausible"
    """Of a person's death rows counts the latest_plausible one: no record is more than doubtful_death_days later (the convention of OHDSI's
    Themis group), and if none is plausible the person has not died. earliest: the first row, whatever came after."""
    doubtful_death_days: float = 60
    min_events: int = 10
    """Persons with fewer kept events are left out."""
    max_rejects: float = 0.05
    """A larger share of rows that can't be read stops the stage that reads the table."""
    billing: str = "at_discharge"
    """at_discharge: the hospital's billing codes count from the end of their visit. as_recorded: from their stamp, which leaks."""
    first_measurement: str = "in_time"
    """Of one person's measurements of a concept in one hour stays the first in_time, or the first in_file."""
    decile_persons: str = "train"
    """Whose values make the decile edges: train persons', or all."""
    decile_edges: str = "home"
    """home: the home hospital's edges where it has the concept and unit. own: each hospital's own."""
    min_values: int = 10
    """Fewer numeric values of a concept in a unit give no deciles."""
    without_deciles: str = "plain"
    """A value without deciles becomes its plain concept, or is left out (with it every value without a unit)."""
    admission_visit_concepts: list[int] = field(default_factory=list)
    """If given, these visits are the admissions of every hospital, in place of what configs/hospitals/NAME.yaml says."""
    admissions: str = "all"
    """all: every eligible admission is a prediction point. one: each person's last (RA: one drawn by a hash)."""
    prediction_at: str = "hours"
    """hours: prediction_hours after admission. midnight: a day after the midnight that ends the day of admission."""
    prediction_hours: float = 24
    """MT, LLOS, onsets and phenotypes are predicted this long after admission."""
    long_stay_days: float = 7
    readmission_days: float = 30
    transfer_hours: float = 24
    """An admission that begins sooner than this after the last one ended is a transfer: the same stay."""
    transfers: str = "one_stay"
    """one_stay: inpatient visits that are joined by transfers are one stay for every outcome, if one is an admission. RA_alone: admissions are, for
    RA; for the others each is a stay."""
    death_tolerance_hours: float = 1
    """A death up to this long after the end of a stay is a death in it: the clocks of wards and of registries differ."""
    died_before: str = "left_out"
    """Who dies before an outcome could come (LLOS, RA) is left_out, or counts as negative."""
    onset_at: str = "admission"
    """admission: cases and controls of an onset are predicted at the same time after admission. record: a case at the last
    record of the disease in its stay, a control at a record drawn by a hash."""
    day_only_diseases: str = "in_stay"
    """in_stay: a disease known by its day only belongs to a stay that ends on that day, as a death does. by_time: it stands at 23:59:59, after it."""
    recorded_before: str = "left_out"
    """An admission with the disease on record before the prediction time is left_out of onsets and phenotypes, or counts."""


@dataclass(frozen=True)
class HospitalConfig:
    """configs/hospitals/NAME.yaml: what one hospital's tables mean. A hospital without a file has the defaults."""

    admission_visit_concepts: list[int] = field(default_factory=lambda: [9201, 262, 8971, 8920])
    """Visits of these concepts are hospital admissions: inpatient, emergency and inpatient, psychiatric, rehabilitation."""
    admission_source_pattern: str = ""
    """If given, a regular expression on visit_source_value decides instead of the concepts."""
    billing_types: list[int] = field(default_factory=list)
    """*_type_concept_id of codes assigned after discharge: they count from the end of their visit."""
    billing_load_tables: list[str] = field(default_factory=list)
    """The same by the column load_table_id, in which Stanford's OMOP tables name the table that a row comes from; in any case."""
    midnight_is_a_time: bool = True
    """False where the export fills in 00:00:00 for dates: then only their day is known. A column in which more than half of the times are
    00:00:00 is taken so without being told (cohort.midnight_columns)."""
    datetime_format: str = ""
    """How *_datetime columns are written that are not `2150-03-05 09:20:00` or like it, by strptime's letters: `%m/%d/%Y %H:%M`."""
    decimal_mark: str = "."
    """What stands before the decimals of a value: `,` where 7.9 is written 7,9. Of a MEDS dataset: in text_value."""
    thousands_mark: str = ""
    """What parts thousands in values, in the same places: `,` where 1200 is written 1,200."""
    drop_repeated_events: bool = False
    """True leaves out all but one of the events of a person with the same domain, concept and time."""
    date_only_types: list[int] = field(default_factory=list)
    """*_type_concept_id whose events at 00:00:00 are known by day only: they count from the end of that day."""
    day_summary_types: list[int] = field(default_factory=list)
    """*_type_concept_id of measurements that sum up a day, such as APACHE's worst values: no other value of their hour stands for them."""
    follow_up_ends: str = "last_record"
    """last_record: no one is followed beyond the hospital's last date. unknown: dates are shifted by person, only death ends it. discharge: the
    time between two stays of a person is not known, so that no one is followed beyond one, and nothing is labelled RA."""
    history_types: list[int] = field(default_factory=list)
    """*_type_concept_id of diseases that a patient had before, whenever they are written down: no outcome begins with them, and they count as on
    record from the start of their visit."""
    stay_begins: str = "unit_admission"
    """Of eICU tables: a stay that is predicted in begins with its first unit_admission, when its record does, or with the hospital_admission."""
    source_folder: str = ""
    """Of eICU tables: the folder below data/ that this hospital is a part of, `eicu` say; not given, the one of the hospital's own name. The part has
    the settings of the hospital of that name where it has none of its own."""
    where: dict[str, list] = field(default_factory=dict)
    """Of eICU tables: what the part is, as {column of hospital or patient: values}, such as `region: [West]` or `hospitalid: [73, 264]`; "" is an
    empty field. Of several columns each must fit. A person with stays in the part and outside of it is left out."""
    database: str = ""
    """The URL of the database that holds the tables, `${NAME_CDM_URL}` say: an environment variable stands for it, or for a part of it, as a
    password has no place in a file. preprocessing/database.py brings the tables to usedata/NAME/source; data/NAME is not read."""
    schema: str = "cdm"
    """Of a database: the schema with person, visit_occurrence and the others."""
    vocabulary_schema: str = ""
    """Of a database: the schema with concept, concept_relationship, concept_ancestor and concept_synonym, which serves as data/concepts where there
    is none."""
    persons_table: str = ""
    """Of a database: only these persons, by a table or view with person_id or (as ATLAS's cohorts have it) subject_id: `results.cohort`."""
    cohort_ids: list[int] = field(default_factory=list)
    """Of persons_table: only the rows with these values of cohort_definition_id."""
    admission_codes: str = r"^HOSPITAL_ADMISSION(//|$)"
    """Of a MEDS dataset: a regular expression on the codes at which stays begin. They are visits of the concept 9201, and their admission's code is
    what admission_source_pattern may look at."""
    discharge_codes: str = r"^HOSPITAL_DISCHARGE(//|$)"
    """Of a MEDS dataset: the codes at which stays end."""
    stay_id_column: str = ""
    """Of a MEDS dataset: the column with a number for each stay, which no two stays share, on its admission, discharge and events. Without it stays
    are paired by time."""
    code_vocabularies: dict[str, str] = field(default_factory=dict)
    """Of a MEDS dataset: {regular expression on codes: vocabulary_id}; its first group is a concept_code of that vocabulary. ICD codes are found
    with and without their dot."""
    code_names: str = ""
    """Of a MEDS dataset: `eicu` reads names in codes as preprocessing/eicu.py reads those of eICU's tables."""
    code_mapping: str = ""
    """Of a MEDS dataset: a CSV file below data/NAME with the columns code and concept_id (0: it has none); not given, code_mapping.csv where there is
    one. usedata/NAME/unmapped_codes.csv, filled in, is such a file."""
    left_out_codes: str = ""
    """Of a MEDS dataset: the codes that are no event, such as the end of an infusion or a dose that was not given."""
    day_only_codes: str = ""
    """Of a MEDS dataset: the codes whose events at 00:00:00 are known by day only."""
    unit_pattern: str = ""
    """Of a MEDS dataset: a regular expression whose first group is the unit that a code tells, such as `^LAB//[^/]+//(.+)$`."""
    unit_concepts: dict[str, int] = field(default_factory=dict)
    """Of a MEDS dataset: {unit in a code: its concept}, as the unit of the home hospital's deciles is told."""

    def of_tables(self) -> dict:
        """What tables mean, and not where they come from: what is made of tables that have not changed stays as it is."""
        defaults = {name: getattr(HospitalConfig(), name) for name in MEDS_SETTINGS}
        return {
            name: value
            for name, value in vars(self).items()
            if name not in DATABASE_SETTINGS and not (name in MEDS_SETTINGS and value == defaults[name])
        }


DATABASE_SETTINGS = ("database", "schema", "vocabulary_schema", "persons_table", "cohort_ids")
"""Of HospitalConfig: where its tables are."""
MEDS_SETTINGS = (
    "admission_codes",
    "discharge_codes",
    "stay_id_column",
    "code_vocabularies",
    "code_names",
    "code_mapping",
    "left_out_codes",
    "day_only_codes",
    "unit_pattern",
    "unit_concepts",
)
"""Of HospitalConfig: what the codes of a MEDS dataset mean."""


@dataclass(frozen=True)
class ChatConfig:
    """How a service that speaks OpenAI's protocol is called: what DefinitionsConfig and RatingConfig have in common."""

    model: str = ""
    """As the service calls it."""
    temperature: float = 0.0
    max_tokens: int = 300
    """The most tokens of an answer; 0 asks for no limit. These three and the prompt make an answer's key."""
    tries: int = 3
    """How often a prompt is sent whose answers are of no use."""
    retry_temperature: float = 0.7
    """Of what is sent again for that reason: at 0 a model of one's own says the same each time."""
    retries: int = 6
    """How often a prompt is sent again that the service gives no answer to: 429, 5xx, a timeout, a broken connection.
    A 429 that says when to come back (Retry-After) does not count."""
    timeout_s: float = 60.0
    first_wait_s: float = 1.0
    """Before the first retry; doubled before each further one, up to longest_wait_s."""
    longest_wait_s: float = 60.0
    longest_pause_s: float = 600.0
    """A Retry-After up to this is waited for; a longer one ends the run, to be continued then."""
    longest_put_off_s: float = 3600.0
    """How long a service may answer no prompt and ask to come back later (429) again and again; then the run ends."""
    give_up_after: int = 20
    """Prompts in a row that got no answer after all retries: then the service is down, and the run ends."""
    concurrency: int = 16


@dataclass(frozen=True)
class DefinitionsConfig(ChatConfig):
    """configs/definitions.yaml: how a language model is asked for definitions. The prompts are configs/prompts/*.txt."""

    model: str = "gpt-4o-mini-2024-07-18"
    """As the service calls it; a dated name, because an undated one changes under the answers. The paper's is gpt-4o-mini.
    An answer is of no use, and asked for again, if it is empty, refused or too long."""
    max_sentences: int = 4
    """The paper and our prompts ask for fewer than five; a longer answer is of no use."""
    max_characters: int = 1200


@dataclass(frozen=True)
class RatingConfig(ChatConfig):
    """configs/rating.yaml: how a medical language model rates features. The words of the prompt are configs/prompts/rating.yaml."""

    model: str = "google/medgemma-27b-text-it"
    """A Hugging Face id or a folder; with --base-url as the service calls it."""
    max_tokens: int = 2048
    """25 ratings take 200; the rest is for models that think aloud before they answer."""
    tries: int = 3
    """How often a feature is asked for that the answers lack or rate in other words."""
    timeout_s: float = 300.0
    give_up_after: int = 3
    """There are few prompts, and each was tried retries + 1 times."""
    features: int = 100
    """The most important ones; with as many controls of each kind (the paper rates 100, and no controls)."""
    min_persons: int = 1
    """Features of fewer persons are not put to the language model. The paper rates all; where a name alone may tell of a person, set 11."""
    repeats: int = 3
    """Times that each feature is rated, each time in another order and other company."""
    batch: int = 25
    """Features of a prompt."""
    prompts_at_once: int = 4
    """Of the model on this machine."""
    precision: str = "bf16"
    """Of the model on this machine: bf16, as MedGemma is published, or fp32, which takes twice the memory."""


@dataclass(frozen=True)
class EncoderConfig:
    """configs/encoder.yaml: the text encoder, and its training on the definitions if there is any; configs/encoder-paper.yaml: as published."""

    model: str = "minilm"
    """`minilm`: all-MiniLM-L6-v2, which came with set-up; a Hugging Face id or a folder; `none` trains a small DeBERTa and its tokenizer
    from nothing (sizes below)."""
    training: str = "none"
    """none reads with the model as it is; contrastive teaches it which names, synonyms, definitions and relationships of the vocabulary belong
    together (medrep/vectors/contrastive.py); masked goes on with its masked-language-model training on the definitions (the paper's)."""
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    vocab_size: int = 50265
    """The five sizes above are used by `model: none` only."""
    max_length: int = 512
    """Tokens of a text, at most 512 and the model's own limit; longer ones are cut, which is said."""
    mask_share: float = 0.15
    epochs: int = 3
    valid_share: float = 0.02
    """Of the different definitions, by a hash of the text: they are not learned from and say which epoch is the best. Of contrastive: of the
    concepts."""
    patience: int = 2
    """Epochs without a better validation loss before stopping; the best epoch's weights are kept."""
    checkpoint_steps: int = 200
    """Steps between what a killed run continues from; each epoch ends with one, too."""
    learning_rate: float = 5e-5
    batch_pairs: int = 256
    """Of contrastive: pairs of a batch; each is told from all others of it."""
    temperature: float = 0.05
    """Of contrastive: cosines are divided by it."""
    batch_tokens: int = 16384
    """Tokens of a batch after padding, over all devices in training; texts of like length share a batch."""
    precision: str = "auto"
    """fp32, bf16, or auto: bf16 on a GPU, fp32 on the CPU. In bf16 weights train in fp32 under autocast and read in bf16: on a CPU that has
    instructions for it at twice the rate, on others at half of it and less (representation/README.md)."""
    pooling: str = "own"
    """own: as the sentence encoder's authors say, and of other models the first token; cls: the last layer's first token (the paper's);
    mean: the mean over the text's tokens."""
    seed: int = 0


@dataclass(frozen=True)
class GraphConfig:
    """configs/graph.yaml: each concept among its neighbours in the vocabulary; configs/graph-paper.yaml: as published."""

    objective: str = "links"
    """neighbour_mean: the text of a concept and of its neighbours, summed; nothing is learned. links: that with a learned weight for each kind
    of relationship, of the directions of the text that related concepts share (medrep/vectors/relation_weights.py). grace: graph contrastive
    learning on the definitions' vectors (method: the paper's section 3). What was measured of them: representation/README.md."""
    hops: int = 2
    """Of neighbour_mean and links: how many steps away text is taken from. One step leaves parents to be found less often, three blur siblings."""
    decile_chain: bool = True
    """Join each decile to the next one of its measurement, so that they keep their order; false is the paper's."""

    relationships: list[str] = field(default_factory=lambda: [name for name in re.split(", |\n", HIERARCHICAL + MAPPING) if name])
    """The relationship_ids that become edges, by both of their names; [all] is the paper's."""
    hidden_size: int = 1536
    """This and what follows: of grace; neighbors and seed also of links."""
    temperature: float = 0.5
    drop_edges: float = 0.2
    drop_features: float = 0.2
    distillation: float = 1.0
    """Weight of the KL loss that keeps graph vectors near the text vectors."""
    skip: bool = True
    """Add the first convolution's sum of text vectors to the output; false is the paper's, which blurs siblings (graphs.GraphEncoder)."""
    learning_rate: float = 5e-4
    weight_decay: float = 1e-5
    epochs: int = 200
    patience: int = 20
    batch_size: int = 1024
    """Seed nodes of a batch."""
    neighbors: list[int] = field(default_factory=lambda: [30, 20])
    seed: int = 0


@dataclass(frozen=True)
class MedTokConfig:
    """configs/medtok.yaml: vector quantization of text and graph (arXiv 2502.04397 and its code; sizes as in MedRep's comparison)."""

    text_codes: int = 10000
    """Codes that only text-specific parts choose from. The three regions together are the codebook: 30,000, in thirds."""
    graph_codes: int = 10000
    shared_codes: int = 10000
    codes_per_part: int = 5
    """A part is the weighted sum of this many nearest codes; 1 is plain quantization."""
    commitment: float = 0.25
    """Weight of the squared distance of each part from its quantized self."""
    separation: float = 0.1
    """Weight of what a side's specific and shared parts have in common."""
    temperature: float = 0.07
    """Of the contrasts: of the shared parts with each other, of the specific parts with their noised selves."""
    drop_edges: float = 0.2
    drop_features: float = 0.2
    """The noise of the second view: as in graph.py, since text vectors are frozen and have no dropout of their own."""
    hidden_size: int = 1536
    """Of the graph encoder; as in graph.py."""
    decay: float = 0.99
    """Of a code's moving average over steps: with 10,000 codes and 1,024 seeds a code is chosen once in ten steps."""
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    epochs: int = 200
    """At most; the published 50 were of 600,000 codes. Patience ends it."""
    patience: int = 20
    batch_size: int = 1024
    """Seed nodes of a batch; the others of the batch are the contrasts' negatives."""
    neighbors: list[int] = field(default_factory=lambda: [30, 20])
    seed: int = 0


@dataclass(frozen=True)
class KeepConfig:
    """configs/keep.yaml: node2vec on the vocabulary's graph, then GloVe on who has what (arXiv 2510.05049 and its code)."""

    width: int = 100
    walks_per_concept: int = 10
    """Random walks that begin at each concept which has edges. The published 750 would take 75 times as long."""
    walk_length: int = 30
    """Concepts of a walk, the first included."""
    window: int = 10
    """Steps apart, on a walk, up to which two concepts are each other's context."""
    negatives: float = 5.0
    """Weight of the concepts that a concept is not to be like, beside that of its context: word2vec's number of them for each pair."""
    shared_negatives: int = 64
    """Such concepts drawn in a step; all concepts of its walks share them."""
    walk_batch: int = 128
    """Walks of a step."""
    walk_learning_rate: float = 0.025
    """Of node2vec; it falls to a hundredth, as word2vec's."""
    min_persons: int = 1
    """Two concepts are a pair if so many train persons have both."""
    full_weight: float = 50.0
    """Of so many persons or more a pair has full weight in GloVe's loss;"""
    full_weight_quantile: float = 0.75
    """or, if that is more, of as many as this share of the pairs has at most."""
    pull: float = 10.0
    """Weight of the squared distance of a concept's vector from its start, beside the weighted squared errors of all of its pairs. Of 0, 1, 10, 30
    and 100, on the MIMIC demo, 10 was the largest that lost little of what is learned; the published 1e-5 is of the cosine, by pair."""
    learning_rate: float = 0.05
    """Of GloVe, by Adagrad."""
    epochs: int = 20
    """Of GloVe. The published 300 were of steps of 1,024 pairs; here a step has all pairs of some concepts. 60 gave the same figures."""
    concept_batch: int = 128
    """Concepts of a step, each with all it is in a pair with."""
    seed: int = 0


@dataclass(frozen=True)
class ModelConfig:
    """configs/models/NAME.yaml, section model: the sizes of the patient model."""

    hidden_size: int = 768
    num_layers: int = 6
    num_heads: int = 12
    intermediate_size: int = 512
    dropout: float = 0.1
    max_age: int = 120
    max_rank: int = 2048
    max_length: int = 2048
    """Tokens of a sequence, [CLS] and sex included."""
    domains: bool = False
    """Add embeddings of the domain (condition, drug, measurement, procedure): BEHRT-DE."""
    prolonged_stay: bool = False
    """A second target of pretraining, from [CLS]: some visit lasts cohort.long_stay_days or more (Med-BERT)."""
    head: str = "linear"
    """What predicts masked tokens: linear (the paper's), a decoder with a row a token; tied, the concept vectors themselves,
    so that a model moves whole to another hospital's vocabulary. What comes next is always predicted by the vectors."""
    added: list[str] = field(default_factory=lambda: ["age", "visit_rank", "record_rank"])
    """What is added to a concept's embedding, each from a table of its own: age; visit_rank and record_rank (the paper's order); time_before, how
    long before the moment of prediction, in 40 logarithmic steps from an hour to 60 years; part, the history or the stay that is asked about."""
    added_start: float = 0.0
    """The learned scalar before each of those tables starts as this. At 0 (the paper's) a table learns nothing until its scalar has moved."""
    values_apart: bool = False
    """true: a measurement is one concept, and the decile of its value is added to it, with what high and low mean of this concept. false (the
    paper's): each decile of each measurement is a token of its own."""
    map_vectors: bool = False
    """A learned map behind a representation's vectors of any width, one for all concepts, so that it goes along to any other vocabulary."""
    project_vectors: bool = False
    """Without map_vectors, concept vectors wider than hidden_size: true keeps their main directions (whitening.fit_whitening), false refuses
    them. Narrower ones are filled up with zeros."""


@dataclass(frozen=True)
class PretrainingConfig:
    """configs/models/NAME.yaml, section pretraining."""

    objectives: list[str] = field(default_factory=lambda: ["masked"])
    """What is learned, together: masked (the paper's), which code stands where one is hidden; values, which decile a value had that is hidden;
    next, which codes, and which deciles of them, follow a random moment of a random visit, told from [CLS] and from the visit's mean."""
    mask_share: float = 0.30
    """Of masked: the share of events that are hidden."""
    value_share: float = 0.40
    """Of values: the share of values that are hidden."""
    next_events: int = 64
    """Of next: how many events after the moment are asked for, at most."""
    batch_tokens: int = 32 * 512
    """Real tokens of a step over all devices; sequences are packed without padding."""
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    warmup_share: float = 0.05
    epochs: int = 50
    patience: int = 5
    checkpoint_minutes: float = 15.0
    """Between checkpoints within an epoch; there is one after every epoch and on SIGTERM in any case."""
    precision: str = "auto"
    """fp32, bf16 (the weights stay fp32, products run under autocast), or auto: bf16 on a GPU, fp32 on the CPU."""
    seed: int = 0


@dataclass(frozen=True)
class FinetuningConfig:
    """configs/models/NAME.yaml, section finetuning."""

    seeds: list[int] = field(default_factory=lambda: [100, 200, 300])
    """Each seeds a fresh head and the order of batches, and the split by split_shares where there is one."""
    persons: str = "all"
    """Whose labels are learned from at home. all: those of pretraining's train persons; its valid persons, whom it did not learn from, say when to
    stop (or as many of both, drawn by seed, where the valid persons are all of one class); all its test persons, whom neither has seen, are
    tested. held_out (the paper's): pretraining's test persons are split by split_shares, and its others not used."""
    split_shares: dict[str, float] = field(default_factory=lambda: {"train": 0.6, "valid": 0.2, "test": 0.2})
    """By person and seed: of held_out, and of an arm that is trained at another hospital (--oracle)."""
    external: list[str] = field(default_factory=lambda: ["ehrshot"])
    """Hospitals whose codes the model never saw; every one of them is tested on all its labelled persons."""
    batch_tokens: int = 32 * 512
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    warmup_share: float = 0.05
    epochs: int = 50
    patience: int = 5
    """Epochs without a better validation score before stopping; the best epoch is kept."""
    readout: str = "stay"
    """What a patient model's classifier reads. stay: [CLS], the means of the hidden states of the history and of the stay that is asked about,
    and the numbers that --model pooled --rep-type none learns from, as which it starts; cls (the paper's): [CLS] alone."""
    stop_by: str = "loss"
    """The validation score: loss, or auroc (the paper's), which for a few dozen positives is mostly chance and knows nothing of calibration."""
    checkpoint_minutes: float = 15.0
    precision: str = "auto"
    replicates: int = 1000
    """Of the bootstrap by person that every interval comes from."""
    aug_neighbors: int = 30
    """--aug-times: a token's nearest neighbours, one of which stands for it (the paper's first version)."""
    aug_from: str = "pretraining"
    """Among what neighbours are looked for: the tokens that pretraining saw, or all of the home hospital's vectors (vocabulary)."""
    count_persons: int = 5
    """logreg and gbm on roll-ups (--counts rollup) count only what so many persons of the training part have."""
    pooled_half_life_days: float = 180.0
    """pooled: an event of the history before the index stay weighs half as much for each half-life that it is older than the newest one.
    Little depends on it: from 30 to 2,000 days the demo's AUROCs stay within .02."""
    attribution_steps: int = 20
    """--extract-attention-score: steps of integrated gradients, each a forward and a backward pass."""
    attribution_examples: int = 500
    """Examples of a hospital that integrated gradients are computed of, drawn by a hash of the person; attention is of all."""


@dataclass(frozen=True)
class ExperimentConfig:
    """All of configs/models/NAME.yaml."""

    model: ModelConfig
    pretraining: PretrainingConfig
    finetuning: FinetuningConfig


@dataclass(frozen=True)
class ReportConfig:
    """configs/report.yaml: the report page."""

    small_count: int = 11
    """Counts from 1 to one less are shown as "<11", and others are withheld where one could be computed from them (medrep.report.disclosure).
    11 is the cell size policy of CMS, which data use agreements often name. 1 shows everything."""
    curves: int = 8
    """Arms in one drawing; there are eight colours. The plain ones come first, and the table has all."""
    features: int = 25
    """Features that are shown at once; the others are behind a click."""
    note: str = ""
    """Stands at the top of the page."""


SECTIONS = {
    "cohort": CohortConfig,
    "definitions": DefinitionsConfig,
    "encoder": EncoderConfig,
    "graph": GraphConfig,
    "hospital": HospitalConfig,
    "keep": KeepConfig,
    "medtok": MedTokConfig,
    "model": ModelConfig,
    "pretraining": PretrainingConfig,
    "finetuning": FinetuningConfig,
    "rating": RatingConfig,
    "report": ReportConfig,
}
PRECISIONS = ("auto", "fp32", "bf16")
CHOICES = {
    "cohort": {
        "billing": ("at_discharge", "as_recorded"),
        "midnight_columns": ("days", "times"),
        "values": ("with_operators", "numbers_alone"),
        "first_measurement": ("in_time", "in_file"),
        "decile_persons": ("train", "all"),
        "decile_edges": ("home", "own"),
        "without_deciles": ("plain", "left_out"),
        "admissions": ("all", "one"),
        "prediction_at": ("hours", "midnight"),
        "died_before": ("left_out", "negative"),
        "onset_at": ("admission", "record"),
        "day_only_diseases": ("in_stay", "by_time"),
        "recorded_before": ("left_out", "counts"),
        "transfers": ("one_stay", "RA_alone"),
        "deaths": ("latest_plausible", "earliest"),
    },
    "hospital": {
        "follow_up_ends": ("last_record", "unknown", "discharge"),
        "stay_begins": ("unit_admission", "hospital_admission"),
        "code_names": ("", "eicu"),
    },
    "graph": {"objective": ("neighbour_mean", "links", "grace")},
    "encoder": {"training": ("none", "contrastive", "masked"), "pooling": ("own", "cls", "mean"), "precision": PRECISIONS},
    "model": {"head": ("linear", "tied"), "added": ("age", "visit_rank", "record_rank", "time_before", "part")},
    "pretraining": {"precision": PRECISIONS, "objectives": ("masked", "values", "next")},
    "finetuning": {
        "precision": PRECISIONS,
        "aug_from": ("pretraining", "vocabulary"),
        "persons": ("all", "held_out"),
        "stop_by": ("loss", "auroc"),
        "readout": ("cls", "stay"),
    },
    "rating": {"precision": ("bf16", "fp32")},
}
