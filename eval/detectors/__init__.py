"""Other detectors, each written from its paper, run on the same models as projclean's probe."""
