"""Prompting: scores templates on a language model, beside fine-tuning; labels are chosen by likelihood."""
