"""Recipes, run folders and training: :mod:`hycam.training.loop` is the loop, on accelerate."""
