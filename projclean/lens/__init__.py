"""What the update does and how: the analyses of ProjLens (arXiv 2604.19083) on one suspect, benign references beside.

One analysis a file, each a pure measurement: `spectra`, `rank_curves`, `neurons`, `shift`, `words`. `analysis` runs
them on a model. None of them judges: for a verdict there is `scan`.
"""
