"""What a strategy does, drawn: one or two of its steps on a small cluster whose costs are whole numbers of seconds.

The run is a modeled run like any other, of a model and a cluster made for reading (`bench`); the pictures are made from its
records (`spans`), in characters (`terminal`) or as a page (`distsim.report.lesson`). Nothing here imports torch or plotly.
"""
