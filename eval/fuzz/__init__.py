"""The fuzz suite: hostile inputs and what projclean makes of them."""
