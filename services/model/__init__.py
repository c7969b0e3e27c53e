"""The language model that the trainer and the torch sampler compute with.

Both engines lay their tokens out as one packed row without padding, so that everything but attention is a
plain per-token operation:

    base.py       load a transformers model, frozen, with our attention in it
    attention.py  the seam: who attends to what is the caller's business
    lora.py       many LoRA adapters on one base, groups of tokens per adapter
    head.py       logprobs without materialising all logits
    peft_files.py adapters on disk, in PEFT's format

This package is a library, not a service: it knows nothing of events, HTTP or runs.
"""
