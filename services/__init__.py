"""The boxes of Rekindle, one folder a service; `model` is a library that trainer and sampler share."""
