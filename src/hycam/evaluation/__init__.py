"""What a model is worth on each task: perplexity, text metrics of its greedy answers, and every answer kept."""
