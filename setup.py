"""What `pip install .` installs with medrep: the first part of requirements.txt, so that no version stands twice. All else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup

first = (Path(__file__).parent / "requirements.txt").read_text().split("\n# for ")[0]
setup(install_requires=[line for line in first.splitlines() if not line.startswith("#")])
