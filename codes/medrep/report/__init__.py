"""The report page of experiments/report.py. Read pages.py first, then any of sections/.

pages.py    the parts of a page and how templates draw them     cells.py         the cells of its tables
charts.py   drawings, curves.py the points of curves            disclosure.py    which counts are hidden
inputs.py   what several sections read                          arms.py          the order and styles of arms
sections/   one file a section                                  count_names.py   counts that several sections show
"""
