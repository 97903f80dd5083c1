"""How good a model is at each task: perplexity, text metrics of its greedy answers, and the answers themselves."""
