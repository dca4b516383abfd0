"""The report's sections, one file each: `build_section` reads what stages wrote and returns a Section of medrep.report.pages.

What is missing becomes a MissingResult with the command that would write it. Numbers of persons, and of what persons have, go through
medrep.report.disclosure.Counts under the names of medrep.report.count_names; numbers of concepts do not. No section imports another:
what several need is in medrep.report.arms, inputs and count_names. The order of the page is in experiments/report.py; read flows.py first.
"""
