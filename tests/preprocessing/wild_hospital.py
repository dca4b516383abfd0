"""Random patients as OMOP tables and as MIMIC_IV_MEDS writes them."""

import csv
import random
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq

CONCEPTS = """concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tstandard_concept\tconcept_code
201826\tType 2 diabetes\tCondition\tSNOMED\tDisorder\tS\t44054006
320128\tHypertension\tCondition\tSNOMED\tDisorder\tS\t59621000
197320\tKidney injury\tCondition\tSNOMED\tDisorder\tS\t14669001
44820682\tHypertension NOS\tCondition\tICD9CM\tcode\t\t401.9
35206882\tDiabetes with hypertension\tCondition\tICD10CM\tcode\t\tE11.22
45533020\tKidney failure\tCondition\tICD10CM\tcode\t\tN17.9
3016723\tCreatinine\tMeasurement\tLOINC\tLab Test\tS\t2160-0
3024171\tRespiratory rate\tMeasurement\tLOINC\tLab Test\tS\t9279-1
1112807\taspirin\tDrug\tRxNorm\tIngredient\tS\t1191
44890001\taspirin tablet\tDrug\tNDC\tcode\t\t00002751001
4052536\tCardiac catheterization\tProcedure\tSNOMED\tProcedure\tS\t41976001
2001\tCatheterization\tProcedure\tICD9Proc\tcode\t\t37.22
9201\tInpatient Visit\tVisit\tVisit\tVisit\tS\tIP
5\tSmoker\tObservation\tSNOMED\tx\tS\tsm
"""
MAPS = {44820682: [320128], 35206882: [201826, 320128], 45533020: [197320], 44890001: [1112807], 2001: [4052536]}
DIAGNOSES = {"DIAGNOSIS//ICD//9//4019": 44820682, "DIAGNOSIS//ICD//10//E1122": 35206882, "DIAGNOSIS//ICD//10//N179": 45533020}
PARENTS = {"LAB//50912//mg/dL": ["LOINC/2160-0"], "LAB//220210//insp/min": ["LOINC/9279-1"], "LAB//50912//UNK": ["LOINC/2160-0"]}
SETTINGS = "billing_types: [32821]\nfollow_up_ends: unknown\n"
LEFT_OUT = ["LAB//SPECIMEN_COLLECTED//50912", "MEDICATION//STOP//Aspirin//00002751001", "MEDICATION//Aspirin//Not Given"]
NO_CONCEPT = ["ICU_ADMISSION//MICU", "INSURANCE//Medicare", "LAB//999999//UNK"]


def write_vocabulary(root):
    folder = root / "data" / "concepts"
    folder.mkdir(parents=True)
    (folder / "CONCEPT.csv").write_text(CONCEPTS)
    pairs = [f"{one}\t{other}\tMaps to" for one, others in MAPS.items() for other in others]
    (folder / "CONCEPT_RELATIONSHIP.csv").write_text("\n".join(["concept_id_1\tconcept_id_2\trelationship_id", *pairs]) + "\n")


class Hospital:
    """Random patients, each fact of whom goes both into OMOP tables and into MEDS rows."""

    def __init__(self, seed, people=40):
        self.random, self.tables, self.rows = random.Random(seed), {}, []
        for person in range(1, people + 1):
            self.add_person(person)

    def table(self, name, **row):
        self.tables.setdefault(name, []).append(row)

    def event(self, person, time, code, stay=None, number=None, text=None):
        self.rows.append((person, time, code, number, text, stay))

    def add_person(self, person):
        draw, born = self.random, self.random.randint(2070, 2130)
        woman = draw.random() < 0.5
        self.table("person", person_id=person, gender_concept_id=8532 if woman else 8507, year_of_birth=born)
        self.event(person, None, f"GENDER//{'F' if woman else 'M'}")
        self.event(person, datetime(born, 1, 1), "MEDS_BIRTH")
        start = datetime(2150, 1, 1, 10, 20) + timedelta(days=draw.randrange(400), minutes=draw.randrange(1440))
        for stay in range(person * 10, person * 10 + draw.randint(1, 3)):
            end = start + timedelta(days=draw.choice([0, 2, 5, 12]), minutes=draw.randrange(30, 1200))
            self.add_stay(person, stay, start, end)
            start = end + timedelta(days=draw.choice([0, 3, 20, 100]), minutes=draw.randrange(60, 3000))
        if draw.random() < 0.3:
            died = draw.choice([end - timedelta(minutes=7), end + timedelta(days=30)])
            at_midnight = draw.random() < 0.3
            died = died.replace(hour=0, minute=0, second=0) if at_midnight else died
            self.table("death", person_id=person, death_date=f"{died:%Y-%m-%d}", death_datetime=f"{died}")
            self.event(person, died, "MEDS_DEATH")

    def add_stay(self, person, stay, start, end):
        draw = self.random
        self.table(
            "visit_occurrence",
            visit_occurrence_id=stay,
            person_id=person,
            visit_concept_id=9201,
            visit_start_date=start.date(),
            visit_start_datetime=start,
            visit_end_date=end.date(),
            visit_end_datetime=end,
        )
        self.event(person, start, f"HOSPITAL_ADMISSION//{draw.choice(['EW EMER.', 'URGENT'])}//EMERGENCY ROOM", stay)
        self.event(person, end, "HOSPITAL_DISCHARGE//HOME", stay)
        for code in draw.sample(list(DIAGNOSES), draw.randint(1, 3)):
            for concept in MAPS[DIAGNOSES[code]]:  # a bill is stamped with admission in OMOP and with discharge in MEDS
                self.add_row("condition_occurrence", "condition", "condition_start", person, stay, concept, start, 32821)
            self.event(person, end, code, stay)
        if draw.random() < 0.5:
            self.add_row("procedure_occurrence", "procedure", "procedure", person, stay, 4052536, start, 32821)
            self.event(person, end, "PROCEDURE//ICD//9//3722", stay)
        for _ in range(draw.randint(5, 25)):
            time = start + (end - start) * draw.random()
            time = time.replace(microsecond=0)
            draw.choice([self.add_lab, self.add_drug, self.add_noise])(person, stay, time)

    def add_row(self, table, name, date, person, stay, concept, time, kind, **more):
        row = {"person_id": person, f"{name}_concept_id": concept, f"{date}_date": time.date(), f"{date}_datetime": time}
        self.table(table, **row, **{f"{name}_type_concept_id": kind, "visit_occurrence_id": stay}, **more)

    def add_lab(self, person, stay, time):
        value = round(self.random.uniform(0.2, 30), 1)
        code, concept, unit, unit_id = self.random.choice(
            [("LAB//50912//mg/dL", 3016723, "mg/dL", ""), ("LAB//50912//UNK", 3016723, "", ""), ("LAB//220210//insp/min", 3024171, "insp/min", 8541)]
        )
        number, text = self.random.choice([(value, str(value)), ("", f"<{value}"), ("", str(value)), ("", "HEMOLYZED"), (value, "")])
        units = {"unit_source_value": unit, "unit_concept_id": unit_id}
        self.add_row(
            "measurement", "measurement", "measurement", person, stay, concept, time, 1, value_as_number=number, value_source_value=text, **units
        )
        self.event(person, time, code, stay, None if number == "" else number, text or None)

    def add_drug(self, person, stay, time):
        self.add_row("drug_exposure", "drug", "drug_exposure_start", person, stay, 1112807, time, 1)
        self.event(person, time, self.random.choice(["MEDICATION//START//Aspirin//2751001", "MEDICATION//Aspirin//Administered//00002751001"]), stay)

    def add_noise(self, person, stay, time):
        """What no OMOP table of ours has."""
        self.event(person, time, self.random.choice([*LEFT_OUT, *NO_CONCEPT]), stay)

    def write_tables(self, folder):
        folder.mkdir(parents=True)
        for name, rows in self.tables.items():
            with open(folder / f"{name}.csv", "w", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)

    def write_meds(self, folder, stay_ids=True):
        """In two shards, of which the second lacks a column and the first knows no text."""
        (folder / "metadata").mkdir(parents=True)
        names = ["subject_id", "time", "code", "numeric_value", "text_value", "hadm_id"]
        kinds = [pa.int64(), pa.timestamp("us"), pa.string(), pa.float32(), pa.string(), pa.int64()]
        last = max(row[0] for row in self.rows)
        for shard, people in {"train/0": range(0, last // 2), "held_out/0": range(last // 2, last + 1)}.items():
            rows = sorted((row for row in self.rows if row[0] in people), key=lambda row: (row[0], row[1] or datetime.min))
            table = pa.table({name: pa.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(zip(names, kinds, strict=True))})
            table = table.append_column("priority", pa.nulls(len(rows))) if shard == "train/0" else table
            (folder / "data" / shard).parent.mkdir(parents=True)
            pq.write_table(table if stay_ids else table.drop_columns("hadm_id"), folder / "data" / f"{shard}.parquet")
        codes = {"code": list(PARENTS), "parent_codes": pa.array(list(PARENTS.values()), pa.list_(pa.string()))}
        pq.write_table(pa.table(codes), folder / "metadata" / "codes.parquet")
