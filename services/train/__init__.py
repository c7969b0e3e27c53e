"""Forward, backward, optimizer step and export of weights, for many runs of one base model at once."""
