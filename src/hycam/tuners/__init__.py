"""The methods of this project in PEFT's own shape, one folder each."""
