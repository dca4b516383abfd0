"""What a hospital's spelling of a drug says: its words, strengths, dose form and volume, as text and without a vocabulary.

    parse_drug_name("2 ML VIAL : ONDANSETRON HCL 4 MG/2ML IJ SOLN")
    -> words ondansetron, hcl, ...; strength 2 MG/ML; forms Injection or Injectable Solution; volume 2 ML

RxNorm spells the same things in one way (`2 ML ondansetron 2 MG/ML Injection`); parse_rxnorm_name reads that.
"""

import re
from dataclasses import dataclass

MASS = {"mg": 1.0, "milligram": 1.0, "mcg": 1e-3, "ug": 1e-3, "microgram": 1e-3, "g": 1e3, "gm": 1e3, "gram": 1e3, "grams": 1e3, "gms": 1e3}
COUNTED = {"unit": "UNT", "units": "UNT", "unt": "UNT", "iu": "UNT", "meq": "MEQ", "mmol": "MMOL", "mmole": "MMOL"}
NUMBER = r"(?:\d[\d,]*\.?\d*|\.\d+)"
UNIT = rf"(?:{'|'.join(sorted([*MASS, *COUNTED], key=len, reverse=True))})(?![a-z])"
# `5-325 mg`, `25 mg/5ml`, `250-50 mcg/dose`, `21 mg/24hr`, `100 units/ml`
STRENGTH = re.compile(
    rf"(?<![\w.,/])({NUMBER}(?:\s*[-/]\s*{NUMBER})*)\s*({UNIT})(?:\s*/\s*({NUMBER})?\s*(ml|l|hr|hour|dose|actuation|puff|spray)(?![a-z]))?"
)
PERCENT = re.compile(rf"(?<![\w.,/-])({NUMBER})\s*%")
ENDING_VOLUME = re.compile(rf"(?<![\w.,/])({NUMBER})\s*ml\b")
# `1000 ML FLEX CONT EXCEL : `, `2 ML  -  `, `1 EACH VIAL: `, `<<`: how it is packed stands before the name
PACKAGING = re.compile(rf"^\W*({NUMBER})\s*(ml|g|gm|mg|each|l)?\b[^:]*?(?:\s*:\s*|\s+-\s+)", re.IGNORECASE)

INJECTED = r"iv|ij|sc|im|inj|injection|injectable|ivpb|ivp|infusion|subq|sub-q|premix|piggyback|vial|sdv|mdv|amp|ampul|lvp"
DOSE_FORMS = [  # the first that fits, so the special ones stand above the plain ones
    (
        r"tbec|ec tab\w*|ec po tab\w*|enteric coated|tab\w* ?, ?delayed release|delayed release tab\w*|tablet dr|dr tab\w*",
        ("Delayed Release Oral Tablet",),
    ),
    (r"cpdr|cpep|dr cap\w*|cap\w* ?, ?delayed release|delayed release cap\w*|ec cap\w*", ("Delayed Release Oral Capsule",)),
    (
        r"(?:tbcr|tb24|tb12|tr tab\w*|(?:er|sr|xl|xr|cr|sa|la|extended release) (?:oral )?tab\w*|tab\w* ?(?:er|sr|xl|xr|cr|sa)|sr part/tab)",
        ("Extended Release Oral Tablet",),
    ),
    (r"cp24|cp12|cpcr|cpsr|(?:er|sr|xl|xr|cd|la) cap\w*|cap\w* ?(?:er|sr|xl|xr|cd|la)", ("Extended Release Oral Capsule",)),
    (r"tbdp|odt|disintegrating tab\w*|rapdis", ("Disintegrating Oral Tablet",)),
    (r"chew|chewable", ("Chewable Tablet",)),
    (r"subl|sl tab\w*|sublingual tab\w*", ("Sublingual Tablet",)),
    (r"tabs?|tablets?|tabe", ("Oral Tablet",)),
    (r"caps?|capsules?|capsule sprinkle", ("Oral Capsule",)),
    (r"supp|suppository|suppositories", ("Rectal Suppository",)),
    (r"pt24|pt72|ptch|patch|patches|ptwk", ("Transdermal System",)),
    (r"(?:in|inh|inhalation|neb|nebulizer|nebu) (?:soln|sol|solution|nebu)|nebu|inh soln|hhn|neb", ("Inhalation Solution",)),
    (r"aepb|diskus", ("Dry Powder Inhaler",)),
    (r"aers|aero|mdi|hfa|inhaler", ("Metered Dose Inhaler",)),
    (r"op soln|ophth\w* soln|ophthalmic soln|eye drops", ("Ophthalmic Solution",)),
    (r"op oint|ophth\w* oint\w*", ("Ophthalmic Ointment",)),
    (r"oint|ointment", ("Topical Ointment",)),
    (r"crea|cream", ("Topical Cream",)),
    (r"bq gel|po gel|oral gel", ("Oral Gel",)),
    (r"mouthwash|mt soln|mt liq\w*", ("Mouthwash",)),
    (r"ex powd|tp powd|topical powder", ("Topical Powder",)),
    (r"po pack|po pwd|oral powder|pwdpkt|po powd|powder for oral", ("Powder for Oral Solution", "Oral Powder")),
    (r"po susp|oral susp\w*|susp po|ud susp", ("Oral Suspension",)),
    (r"(?:po|oral) (?:soln|sol|solution|liqd|liq|liquid|syrp|syrup|elix|elixir|conc)|syrp|syrup|elix|elixir", ("Oral Solution",)),
    (r"(?:iv|ij|inj|sc|im) (?:emul|emulsion|susp)", ("Injection", "Injectable Suspension")),
    (r"enem|enema", ("Enema",)),
    (r"crtrdg-ndl|crtrdg|cartridge|carpuject|tubex", ("Cartridge",)),
    (r"pen|flexpen|kwikpen|solostar|flextouch", ("Pen Injector",)),
    (r"syr|syringe|abboject", ("Prefilled Syringe",)),
    (INJECTED, ("Injection", "Injectable Solution")),
]
DOSE_FORMS = [(re.compile(rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9])"), forms) for pattern, forms in DOSE_FORMS]
PER_MASS_FORMS = ("Topical Ointment", "Topical Cream", "Topical Powder", "Oral Gel", "Ophthalmic Ointment")

Strength = tuple[float, str]  # 325.0, "MG"; 2.0, "MG/ML"


@dataclass(frozen=True)
class DrugName:
    """words: (word, separator before it). strengths: each a list with a Strength an ingredient. forms: what RxNorm may call the dose form."""

    words: tuple[tuple[str, str], ...]
    strengths: tuple[tuple[Strength, ...], ...]
    forms: tuple[str, ...]
    volume: float | None
    hours: float | None = None


def parse_drug_name(text: str) -> DrugName:
    """A hospital's spelling, whatever its case."""
    name = re.sub(r"\s+", " ", text.lower().replace("**", " ").replace("µ", "u")).strip()
    forms = find_forms(name)  # of the packaging, too, which may be a syringe
    packed = PACKAGING.match(text.strip())
    if packed:  # matched in the text as it came: two spaces stand around a packaging's dash
        name = re.sub(r"\s+", " ", text.strip()[packed.end() :].lower())
    volume = parse_number(packed[1]) if packed and (packed[2] or "").lower() == "ml" else None
    strengths, per_volume = find_strengths(name, forms)
    if volume is None:
        ending = [parse_number(m[1]) for m in ENDING_VOLUME.finditer(name)]
        volume = per_volume or (ending[0] if len(set(ending)) == 1 else None)
    return DrugName(words=split_words(name), strengths=strengths, forms=forms, volume=volume, hours=find_hours(name))


def split_words(name: str) -> tuple[tuple[str, str], ...]:
    """The words, each with what stands between it and the word before: `a-b` gives (a, ""), (b, "-")."""
    return tuple((word, separator.strip()) for separator, word in re.findall(r"([^a-z0-9]*)([a-z0-9]+)", name))


def find_forms(name: str) -> tuple[str, ...]:
    for pattern, forms in DOSE_FORMS:
        if pattern.search(name):
            return forms
    return ()


def find_hours(name: str) -> float | None:
    """Over how many hours a dose is given off, where the form says so (`TB24`, `PT72`, `MG/24HR`)."""
    found = re.search(r"\b(?:tb|cp|pt)(12|24|72)\b", name) or re.search(r"/\s?(12|24|72)\s?(?:hr|hour)", name)
    return float(found[1]) if found else None


def find_strengths(name: str, forms: tuple[str, ...]) -> tuple[tuple[tuple[Strength, ...], ...], float | None]:
    """Every strength that stands in the name, and the volume that one of them is dissolved in (`4 MG/2ML`: 2)."""
    found, volumes = [], set()
    for amounts, unit, number, per in STRENGTH.findall(name):
        amounts = [parse_number(a) for a in re.split(r"\s*[-/]\s*", amounts)]
        divisor = parse_number(number) if number else 1.0
        if not divisor or not all(amounts):
            continue
        if per == "ml" and divisor != 1:
            volumes.add(divisor)
        if per == "l":
            per, divisor = "ml", divisor * 1000
        found.append(tuple(make_strength(amount / divisor, unit, per) for amount in amounts))
    for amount in map(parse_number, PERCENT.findall(name)):
        if amount:  # 1 % is 10 mg in a millilitre, or in a gram of ointment
            found.append(((round(amount / 100, 8), "MG/MG"),) if set(forms) & set(PER_MASS_FORMS) else ((round(amount * 10, 6), "MG/ML"),))
    return tuple(dict.fromkeys(found)), volumes.pop() if len(volumes) == 1 else None


def make_strength(amount: float, unit: str, per: str) -> Strength:
    amount, unit = (amount * MASS[unit], "MG") if unit in MASS else (amount, COUNTED[unit])
    per = {"": "", "ml": "/ML", "hr": "/HR", "hour": "/HR"}.get(per, "/ACTUAT")
    return float(f"{amount:.4g}"), unit + per


def parse_number(text: str) -> float:
    return float(text.replace(",", "").rstrip(".") or 0)


# ---- RxNorm's own names ------------------------------------------------------------------------------------------

RXNORM_QUANTITY = re.compile(rf"^(?:NDA\d+ )?({NUMBER}) (ML|HR|ACTUAT|MG) ")
RXNORM_STRENGTH = re.compile(rf"^(.+?) ({NUMBER}) ([A-Z]+(?:/[A-Z]+)?)(?: |$)(.*)$")


@dataclass(frozen=True)
class RxNormName:
    """components: (ingredient with its salt, Strength or None where the name has none)."""

    components: tuple[tuple[str, Strength | None], ...]
    form: str
    volume: float | None
    hours: float | None


def parse_rxnorm_name(name: str) -> RxNormName | None:
    """`2 ML ondansetron 2 MG/ML Injection`, `acetaminophen 325 MG / oxycodone hydrochloride 5 MG Oral Tablet`; None if it isn't so built."""
    quantity = RXNORM_QUANTITY.match(name)
    rest = name[quantity.end() :] if quantity else name
    components, form = [], ""
    for part in rest.split(" / "):
        found = RXNORM_STRENGTH.match(part)
        if form or not found:
            return None
        components.append((found[1].lower(), (float(f"{float(found[2].replace(',', '')):.4g}"), found[3])))
        form = found[4]
    size = float(quantity[1].replace(",", "")) if quantity else None
    return RxNormName(
        components=tuple(components),
        form=form,
        volume=size if quantity and quantity[2] == "ML" else None,
        hours=size if quantity and quantity[2] == "HR" else None,
    )
