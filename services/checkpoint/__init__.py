"""The catalogue of training runs and checkpoints: save, load, list, delete, hand out files."""
