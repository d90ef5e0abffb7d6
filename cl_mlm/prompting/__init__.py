"""What a language model makes of a template, beside what fine-tuning makes of it: labels are chosen by likelihood."""
