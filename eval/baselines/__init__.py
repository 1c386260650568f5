"""Peer defences, each written from its paper: one file a method, a function from a defender's inputs to weights."""
