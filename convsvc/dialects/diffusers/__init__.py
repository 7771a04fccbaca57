"""Diffusion models as they are published: a component of a diffusers pipeline, their authors' own directory, or a single file."""
