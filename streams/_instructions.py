"""Wordings of instructions as papers on continual learning give them. Data only.

The sentences are those of the papers' public repositories; how the columns of a row are named in them is ours where a
repository keeps rows as one text.
"""

from __future__ import annotations

from cl_mlm.data import WordingSet

PAIR_OF_SENTENCES = "sentence 1: {{ text }}\nsentence 2: {{ text_pair }}"


def _o_lora(instruction: str, body: str = "{{ text }}") -> str:
    """Returns an instruction, the labels of the data set, the row, and the word before the answer."""
    return f"{instruction} Choose one from the option.\nOption: {{{{ labels | join(', ') }}}} \n{body}\nAnswer:"


SENTIMENT = _o_lora("What is the sentiment of the following paragraph?")
TOPIC = _o_lora("What is the topic of the following paragraph?")
ENTAILMENT = _o_lora(
    'What is the logical relationship between the "sentence 1" and the "sentence 2"?', PAIR_OF_SENTENCES
)

# Progressive Prompts (Razdaibiedina et al. 2023, arXiv:2301.12314) brought the 15 sets, and asks without words; the
# sentences are O-LoRA's.
O_LORA = WordingSet(
    "O-LoRA (Wang et al. 2023, arXiv:2310.14152): the instructions of standard4 and long15",
    {
        **dict.fromkeys(("yelp", "amazon", "imdb", "sst2"), SENTIMENT),
        **dict.fromkeys(("dbpedia", "yahoo", "agnews"), TOPIC),
        **dict.fromkeys(("mnli", "cb", "rte"), ENTAILMENT),
        "qqp": _o_lora(
            'Whether the "first sentence" and the "second sentence" have the same meaning?',
            "first sentence: {{ text }}\nsecond sentence: {{ text_pair }}",
        ),
        "boolq": _o_lora(
            "According to the following passage, is the question true or false?",
            "passage: {{ text_pair }}\nquestion: {{ text }}",
        ),
        "multirc": _o_lora(
            "According to the following passage and question, is the candidate answer true or false?",
            "passage: {{ text }}\n{{ text_pair }}",
        ),
        "wic": _o_lora(
            "Given a word and two sentences, whether the word is used with the same sense in both sentence?",
            "{{ text }}\n{{ text_pair }}",
        ),
        "copa": "{{ text }}\n{{ text_pair }}\nAnswer:",
    },
    {"separator": " "},
    ("cl15_",),
)

# The prompts of TRACE's archive begin with these; a prompt that does not is given its own.
_TRACE = {
    "c-stance": "判断以下文本对指定对象的态度，选择一项：A.支持，B.反对，C.中立。输出A，B或者C。\n",
    "fomc": (
        "What is the monetary policy stance for the following text? A. dovish, B. hawkish, C. neutral. Choose one from "
        "A, B and C.\n"
    ),
    "meetingbank": "Write a summary of the following meeting transcripts.\n",
    "scienceqa": "Choose an answer for the following question and give your reasons.\n\n",
    "numglue-cm": "Solve the following math problem.\n",
    "numglue-ds": "Solve the following math problem.\n",
    "20minuten": "Provide a simplified version of the following paragraph in German.\n\n",
}


def _begun(text: str) -> str:
    """Returns a template that puts an instruction before a prompt which does not begin with it."""
    return f"{{% set first = {text!r} %}}{{{{ source if source.startswith(first.strip()) else first ~ source }}}}"


TRACE = WordingSet(
    "TRACE (Wang et al. 2023, arXiv:2310.06762): the prompts of its archive, which hold their instructions",
    {"py150": "{{ source }}", **{stage: _begun(text) for stage, text in _TRACE.items()}},
    {"separator": " "},
    ("trace_",),
)

WORDING_SETS = {"o_lora": O_LORA, "trace": TRACE}
