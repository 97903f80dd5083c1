"""A model's quality per task: perplexity, text metrics of its greedy answers, and the answers."""
