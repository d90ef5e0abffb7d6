"""The data sets of the published sequences, and their orders. Data only.

Orders, label words and splits were looked up in the papers' public repositories. How the columns of a row become one
input text is ours, not theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streams._rows import answer_checked, cause_or_effect, take, unchanged, word_in_context
from streams._sources import Source

OWN_TERMS = "its own terms"
GLUE, GLUE_COMMIT = "nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
SUPERGLUE, SUPERGLUE_COMMIT = "aps/super_glue", "3de24cf8022e94f4ee4b9d55a6f539891524d646"
NO_TEST = {"train": "train", "test": "validation"}  # the labels of the hub's test split are kept back
NO_VALIDATION = {"train": "train", "test": "test"}
STARS = {"1 star": "very negative", "2 star": "negative", "3 stars": "neutral"} | {
    "4 stars": "positive",
    "5 stars": "very positive",
}
GOOD_BAD = {"neg": "Bad", "pos": "Good", "negative": "Bad", "positive": "Good"}
DBPEDIA = {
    "EducationalInstitution": "Educational Institution",
    "OfficeHolder": "Office Holder",
    "MeanOfTransportation": "Mean of Transportation",
    "NaturalPlace": "Natural Place",
    "WrittenWork": "Written Work",
}
ZHANG = "Zhang et al. 2015, arXiv:1509.01626"

# Label words are those of O-LoRA (Wang et al. 2023, arXiv:2310.14152): sets that use the same word share a label.
GLUE_AND_REVIEWS = {
    "cl15_agnews": Source(
        take({"Sci/Tech": "Science or Technology"}, text="text", label="label"),
        (120_000, 0, 7_600),
        OWN_TERMS,
        ZHANG,
        hub="fancyzhx/ag_news",
        revision="eb185aade064a813bc0b7f42de02595523103ca4",
        splits=NO_VALIDATION,
        domain="news",
    ),
    "cl15_amazon": Source(unchanged, (3_000_000, 0, 650_000), OWN_TERMS, ZHANG, domain="product reviews"),
    "cl15_yahoo": Source(
        take(text=("question_title", "question_content", "best_answer"), label="topic"),
        (1_400_000, 0, 60_000),
        OWN_TERMS,
        ZHANG,
        hub="community-datasets/yahoo_answers_topics",
        revision="6652a1e7c94f7260a0bfd0c9092dd48e2d536ea1",
        splits=NO_VALIDATION,
        strata="topic",
        domain="questions",
    ),
    "cl15_dbpedia": Source(
        take(DBPEDIA, text=("title", "content"), label="label"),
        (560_000, 0, 70_000),
        "CC BY-SA 3.0",
        ZHANG,
        hub="fancyzhx/dbpedia_14",
        revision="9abd46cf7fc8b4c64290f26993c540b92aa145ac",
        splits=NO_VALIDATION,
        domain="encyclopaedia",
    ),
    "cl15_yelp": Source(
        take(STARS, text="text", label="label"),
        (650_000, 0, 50_000),
        OWN_TERMS,
        ZHANG,
        hub="Yelp/yelp_review_full",
        revision="c1f9ee939b7d05667af864ee1cb066393154bf85",
        splits=NO_VALIDATION,
        domain="business reviews",
    ),
    "cl15_imdb": Source(
        take(GOOD_BAD, text="text", label="label"),
        (25_000, 0, 25_000),
        OWN_TERMS,
        "Maas et al. 2011",
        hub="stanfordnlp/imdb",
        revision="e6281661ce1c48d982bc483cf8a173c1bbeb5d31",
        splits=NO_VALIDATION,
        domain="film reviews",
    ),
    "cl15_sst2": Source(
        take(GOOD_BAD, text="sentence", label="label"),
        (67_349, 0, 872),
        OWN_TERMS,
        "Socher et al. 2013",
        hub=GLUE,
        revision=GLUE_COMMIT,
        subset="sst2",
        splits=NO_TEST,
    ),
    "cl15_mnli": Source(
        take(text="premise", text_pair="hypothesis", label="label"),
        (392_702, 0, 9_815),
        OWN_TERMS,
        "Williams et al. 2018, arXiv:1704.05426",
        hub=GLUE,
        revision=GLUE_COMMIT,
        subset="mnli",
        splits={"train": "train", "test": "validation_matched"},
    ),
    "cl15_qqp": Source(
        take({"not_duplicate": "False", "duplicate": "True"}, text="question1", text_pair="question2", label="label"),
        (363_846, 0, 40_430),
        OWN_TERMS,
        "GLUE, arXiv:1804.07461",
        hub=GLUE,
        revision=GLUE_COMMIT,
        subset="qqp",
        splits=NO_TEST,
    ),
}

_PAIR = take({"not_entailment": "contradiction"}, text="premise", text_pair="hypothesis", label="label")
SUPERGLUE_ROWS = {
    "boolq": (take(text="question", text_pair="passage", label="label"), (9_427, 0, 3_270)),
    "cb": (_PAIR, (250, 0, 56)),
    "copa": (cause_or_effect, (400, 0, 100)),
    "multirc": (answer_checked, (27_243, 0, 4_848)),
    "rte": (_PAIR, (2_490, 0, 277)),
    "wic": (word_in_context, (5_428, 0, 638)),
}
SUPERGLUE_SETS = {
    f"cl15_{name}": Source(
        rows,
        published,
        OWN_TERMS,
        "SuperGLUE, arXiv:1905.00537",
        hub=SUPERGLUE,
        revision=SUPERGLUE_COMMIT,
        subset=name,
        splits=NO_TEST,
    )
    for name, (rows, published) in SUPERGLUE_ROWS.items()
}

LONG = {**GLUE_AND_REVIEWS, **SUPERGLUE_SETS}

# TRACE (Wang et al. 2023, arXiv:2310.06762) is handed out as an archive: 5,000 training and 2,000 test rows a task.
TRACE_LANGUAGES = {
    "C-STANCE": "zh",
    "FOMC": "en",
    "MeetingBank": "en",
    "Py150": None,
    "ScienceQA": "en",
    "NumGLUE-cm": "en",
    "NumGLUE-ds": "en",
    "20Minuten": "de",
}
TRACE = {
    f"trace_{name.lower()}": Source(
        unchanged,
        None,
        OWN_TERMS,
        "github.com/BeyonderXX/TRACE",
        local={"source": "prompt", "target": "answer"},
        folders=(name,),
        objective="text_to_text",
        language=language,
    )
    for name, language in TRACE_LANGUAGES.items()
}


@dataclass(frozen=True)
class PublishedSequence:
    """The data sets of one benchmark, in the orders in which they were published.

    Attributes:
        prefix: what the catalogue (SOURCES) puts before a set's name; the stage has the name alone.
        orders: the number of a published order to the names of its sets.
    """

    prefix: str
    orders: Mapping[int, tuple[str, ...]]


def _sets(names: str) -> tuple[str, ...]:
    return tuple(names.split())


SEQUENCES = {
    # Zhang et al. 2015's sets as de Masson d'Autume et al. 2019 (arXiv:1906.01076) brought them to continual learning;
    # orders 1-3 of O-LoRA.
    "standard4": PublishedSequence(
        "cl15_",
        {
            1: ("dbpedia", "amazon", "yahoo", "agnews"),
            2: ("dbpedia", "amazon", "agnews", "yahoo"),
            3: ("yahoo", "amazon", "agnews", "dbpedia"),
        },
    ),
    # Razdaibiedina et al. 2023, Progressive Prompts, arXiv:2301.12314; numbered 4-6 by O-LoRA.
    "long15": PublishedSequence(
        "cl15_",
        {
            4: _sets("mnli cb wic copa qqp boolq rte imdb yelp amazon sst2 dbpedia agnews multirc yahoo"),
            5: _sets("multirc boolq wic mnli cb copa qqp rte imdb sst2 dbpedia agnews yelp amazon yahoo"),
            6: _sets("yelp amazon mnli cb copa qqp rte imdb sst2 dbpedia agnews yahoo multirc boolq wic"),
        },
    ),
    "trace": PublishedSequence("trace_", {1: tuple(name.lower() for name in TRACE_LANGUAGES)}),
}
