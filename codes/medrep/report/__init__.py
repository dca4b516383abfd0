"""The report page: its parts (pages), drawings (charts, curves), what is withheld (disclosure), and its sections. Read pages.py first."""
