"""The report: one self-contained page, the answer on top. plotly is imported here only."""
