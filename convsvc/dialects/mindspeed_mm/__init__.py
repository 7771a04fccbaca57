"""Rank files of MindSpeed-MM: models of several modules, each cut in its own way."""
