"""The smol tier: a real pretrained language model behind a vision tower trained on natural images."""
