"""Recipes, run folders and training, on ``transformers.Trainer``."""
