"""From answers to numbers: the scores of each kind of answer."""
