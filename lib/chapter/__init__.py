"""What does a page need? Claims that can fail, the two scales, provenance, the paper's values, figures and sliders.

Nothing here computes: whoever changes how pages look, or what a run records, works here.
"""
