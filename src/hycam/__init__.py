"""HyCAM: contextual attention modulation for adapting one frozen language model to several tasks."""
