"""The patient model as two files that transformers loads without this repository, taken from this package's own source.

    model_code.assemble() -> {"configuration_behrt_omop.py": ..., "modeling_behrt_omop.py": ...}

    TAKEN ----> what they name ----> what that names ...     of medrep: the definition is taken, too, with its comments
                                                             of others: the import is
                                                             UserError: a ValueError, as a program of others is not to end by it

So there is no second copy of the model to keep alike: what is published is what was trained.
"""

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import medrep

CONFIGURATION, MODELING = "configuration_behrt_omop", "modeling_behrt_omop"
TAKEN = {
    CONFIGURATION: [("medrep.patients.behrt_config", "BehrtConfig")],
    MODELING: [
        ("medrep.patients.behrt", "BehrtForPretraining"),
        ("medrep.patients.behrt", "BehrtForPrediction"),
        ("medrep.patients.sequences", "time_buckets"),  # what whoever makes a batch needs
    ],
}
REPLACED = {("medrep.errors", "UserError"): "UserError = ValueError"}
HEADER = '''"""{title}

Written by medrep {version} (experiments/publish.py) from its own source, of which each part below says where it stands. MIT licence.
"""
'''
TITLES = {
    CONFIGURATION: "What a patient model of the BEHRT family is made of.",
    MODELING: "Patient models of the BEHRT family over packed sequences of OMOP events.",
}
Definition = tuple[str, str]
"""A module of medrep and a name that it defines."""


@dataclass
class Module:
    """A module's source: where each name is defined or imported from."""

    name: str
    lines: list[str]
    statements: list[ast.stmt]
    defined: dict[str, ast.stmt] = field(default_factory=dict)
    imported: dict[str, ast.Import | ast.ImportFrom] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str) -> "Module":
        file = Path(medrep.__file__).parent.joinpath(*name.split(".")[1:]).with_suffix(".py")
        text = file.read_text(encoding="utf-8")
        found = cls(name, text.splitlines(), ast.parse(text).body)
        for statement in found.statements:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                found.imported |= dict.fromkeys((alias.asname or alias.name.partition(".")[0] for alias in statement.names), statement)
            else:
                found.defined |= dict.fromkeys(defined_names(statement), statement)
        return found

    def text(self, statement: ast.stmt) -> str:
        """A statement with its decorators, the comments right above it, and the sentence below a constant."""
        first = min([statement.lineno, *(mark.lineno for mark in getattr(statement, "decorator_list", []))])
        while first > 1 and self.lines[first - 2].startswith("#"):
            first -= 1
        place = self.statements.index(statement)
        after = self.statements[place + 1] if place + 1 < len(self.statements) else None
        is_sentence = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(statement, ast.Assign | ast.AnnAssign)
        last = after.end_lineno if after is not None and is_sentence else statement.end_lineno
        return "\n".join(self.lines[first - 1 : last])


def defined_names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target] if isinstance(statement, ast.AnnAssign) else []
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def used_names(statement: ast.stmt) -> list[str]:
    return list(dict.fromkeys(node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)))


class Source:
    """What of medrep's modules some definitions need."""

    def __init__(self):
        self.modules: dict[str, Module] = {}
        """In an order in which each comes after those that it imports from."""

    def module(self, name: str) -> Module:
        if name not in self.modules:
            read = Module.read(name)
            for statement in read.imported.values():
                if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("medrep.") and self.is_module(statement.module):
                    self.module(str(statement.module))
            self.modules[name] = read
        return self.modules[name]

    @staticmethod
    def is_module(name: str | None) -> bool:
        return Path(medrep.__file__).parent.joinpath(*str(name).split(".")[1:]).with_suffix(".py").exists()

    def find(self, module: str, name: str) -> Definition | ast.Import | ast.ImportFrom | None:
        """What `name` means in `module`: a definition of medrep's, an import of something else, or None for what is Python's or local."""
        there = self.module(module)
        if name in there.defined:
            return module, name
        statement = there.imported.get(name)
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").partition(".")[0] == "medrep":
            if statement.module == "medrep":
                raise AssertionError(f"{module} names the module {name} in what is published: import from it what is needed")
            return self.find(str(statement.module), name)
        return statement

    def closure(self, taken: list[Definition], have: list[Definition]) -> tuple[list[Definition], list[Definition], set[tuple[str, str]]]:
        """All definitions that are needed and not in `have`, those of `have` that are, and (module, name) of every import of another package's."""
        found: dict[Definition, None] = {}
        outside: set[tuple[str, str]] = set()
        waiting = list(taken)
        while waiting:
            definition = waiting.pop()
            if definition in found:
                continue
            found[definition] = None
            if definition in REPLACED or definition in have:
                continue
            module, name = definition
            for statement in [self.module(module).defined[name], *self.registrations(definition)]:
                for used in used_names(statement):
                    meaning = self.find(module, used)
                    if isinstance(meaning, tuple):
                        waiting.append(meaning)
                    elif meaning is not None:
                        outside.add((module, used))
        return [one for one in found if one not in have], [one for one in found if one in have], outside

    def registrations(self, definition: Definition) -> Iterator[ast.stmt]:
        """Calls of the module that hand the definition to a library when it is imported."""
        module, name = definition
        for statement in self.module(module).statements:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) and name in used_names(statement):
                yield statement

    def write(self, definitions: list[Definition]) -> str:
        """The definitions' text, in the order of the modules and of the lines in each."""
        parts = [text for definition, text in REPLACED.items() if definition in definitions]
        for name, module in self.modules.items():
            mine = [definition for definition in definitions if definition[0] == name and definition not in REPLACED]
            statements = {id(s): s for d in mine for s in (module.defined[d[1]], *self.registrations(d))}
            if statements:
                parts.append(f"# ---- {name} ----")
                parts += [module.text(statement) for statement in sorted(statements.values(), key=lambda s: s.lineno)]
        return "\n\n\n".join(parts) + "\n"


def import_lines(source: Source, outside: set[tuple[str, str]]) -> list[str]:
    plain, of_module = set(), {}
    for module, name in outside:
        statement = source.modules[module].imported[name]
        (alias,) = [alias for alias in statement.names if (alias.asname or alias.name.partition(".")[0]) == name]
        words = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
        if isinstance(statement, ast.ImportFrom):
            of_module.setdefault(statement.module, set()).add(words)
        else:
            plain.add(f"import {words}")
    return [*sorted(plain), *(f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(of_module.items()))]


def assemble() -> dict[str, str]:
    """{file name: its text} of the configuration and of the models."""
    source, found, have = Source(), {}, []
    for name, taken in TAKEN.items():
        own, shared, outside = source.closure(taken, have)
        lines = import_lines(source, outside)
        if shared:
            lines += ["", f"from .{CONFIGURATION} import {', '.join(sorted(known for _, known in shared))}"]
        text = "\n".join([HEADER.format(title=TITLES[name], version=medrep.VERSION), *lines]) + "\n\n\n" + source.write(own)
        check_names(text, name)
        found[f"{name}.py"], have = text, [*have, *own]
    return found


def check_names(text: str, name: str):
    """A defect of ours: something that is named is nowhere."""
    tree = ast.parse(text)
    known = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    known |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    known |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    known |= {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    if lost := sorted(used - known - set(dir(builtins))):
        raise AssertionError(f"{name} names {', '.join(lost)}, and nothing of it was taken")
