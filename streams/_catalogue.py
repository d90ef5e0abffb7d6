"""The data sets that `standard` and `sequence` know by name. Data only.

Hub ids, columns and splits were looked up in public material, not tried against the hub; a revision that could not be
confirmed is left out. One entry is all that a new data set needs; see `Source`.
"""

from __future__ import annotations

from streams._rows import io_tags, relation_spans, split_words, take, unchanged
from streams._sequences import LONG, NO_TEST, NO_VALIDATION, OWN_TERMS, TRACE
from streams._sources import Source

INTENTS = {
    "banking77": Source(
        take(text="text", label="label"),
        (10_003, 0, 3_080),
        "CC BY 4.0",
        "github.com/PolyAI-LDN/task-specific-datasets",
        hub="legacy-datasets/banking77",
        revision="f54121560de48f2852f90be299010d1d6dc612ec",
        splits=NO_VALIDATION,
    ),
    "hwu64": Source(
        take(text="text", label="label"),
        (8_954, 1_076, 1_076),
        "CC BY 4.0",
        "github.com/xliuhw/NLU-Evaluation-Data",
        hub="FastFit/hwu_64",
        revision="9fb5bff1e37c4c5a6d46c1ff6f286b6d3f362222",
    ),
    "snips_intent": Source(unchanged, (13_084, 700, 700), OWN_TERMS, "github.com/MiuLab/SlotGated-SLU"),
    "atis_intent": Source(
        take(text="text", label="intent"),
        (4_978, 0, 893),
        OWN_TERMS,
        "LDC, split of Microsoft CNTK",
        hub="tuetschek/atis",
        revision="d44649dde31b4c9d2104aac42a35ed83956e7dec",
        splits=NO_VALIDATION,
        strata="intent",
        only_known=True,
    ),
    "sgd_intent": Source(
        unchanged,
        None,  # depends on how turns become rows
        "CC BY-SA 4.0",
        "github.com/google-research-datasets/dstc8-schema-guided-dialogue",
    ),
}

WORDS = {
    "snips_slots": Source(
        unchanged, (13_084, 700, 700), OWN_TERMS, "github.com/MiuLab/SlotGated-SLU", objective="tagging"
    ),
    "atis_slots": Source(
        split_words(tokens="text", tags="slots"),
        (4_978, 0, 893),
        OWN_TERMS,
        "LDC, split of Microsoft CNTK",
        hub="tuetschek/atis",
        revision="d44649dde31b4c9d2104aac42a35ed83956e7dec",
        splits=NO_VALIDATION,
        strata="intent",
        only_known=True,
        objective="tagging",
    ),
    "fewnerd": Source(
        io_tags("fine_ner_tags"),
        (131_767, 18_824, 37_648),
        "CC BY-SA 4.0",
        "github.com/thunlp/Few-NERD",
        hub="DFKI-SLT/few-nerd",
        revision="205f3e9c9f3577ea2561d43f2f62dc249ab92d5b",
        subset="supervised",
        objective="tagging",
    ),
    "ontonotes": Source(unchanged, (59_924, 8_528, 8_262), "LDC", "LDC2013T19 (OntoNotes 5.0)", objective="tagging"),
    "wnut17": Source(
        unchanged, (3_394, 1_009, 1_287), "CC BY 4.0", "github.com/leondz/emerging_entities_17", objective="tagging"
    ),
    "fewrel": Source(
        relation_spans,
        (56_000, 0, 0),
        "MIT",
        "github.com/thunlp/FewRel",
        hub="thunlp/few_rel",
        revision="refs/convert/parquet",
        splits={"train": "train_wiki+val_wiki"},
        carve={"test": 0.2, "validation": 0.25},
        strata="relation",
        folders=("fewrel80",),
        objective="relation",
    ),
}

TEXTS = {
    "sgd_response": Source(
        unchanged,
        None,  # depends on how turns become rows
        "CC BY-SA 4.0",
        "github.com/google-research-datasets/dstc8-schema-guided-dialogue",
        objective="text_to_text",
    ),
    "multi30k_en_de": Source(
        take(source="en", target="de"),
        (29_000, 1_014, 1_000),
        OWN_TERMS,
        "github.com/multi30k/dataset",
        hub="bentrevett/multi30k",
        objective="text_to_text",
    ),
    "multi30k_de_en": Source(
        take(source="de", target="en"),
        (29_000, 1_014, 1_000),
        OWN_TERMS,
        "github.com/multi30k/dataset",
        hub="bentrevett/multi30k",
        local={"source": "target", "target": "source"},
        folders=("multi30k_en_de",),
        objective="text_to_text",
        language="de",
    ),
    "samsum": Source(
        take(source="dialogue", target="summary"),
        (14_732, 818, 819),
        "CC BY-NC-ND 4.0",
        "Gliwa et al. 2019, arXiv:1911.12237",
        hub="knkarthick/samsum",
        revision="f8040674894a743112febaddde2b32264c07bb20",
        objective="text_to_text",
        domain="chats",
    ),
    "dialogsum": Source(
        take(source="dialogue", target="summary"),
        (12_460, 500, 1_500),
        "CC BY-NC-SA 4.0",
        "github.com/cylnlp/dialogsum",
        hub="knkarthick/dialogsum",
        objective="text_to_text",
        domain="conversations",
    ),
    "xsum": Source(
        take(source="document", target="summary"),
        (204_045, 11_332, 11_334),
        OWN_TERMS,
        "Narayan et al. 2018, arXiv:1808.08745",
        hub="EdinburghNLP/xsum",
        revision="refs/convert/parquet",
        objective="text_to_text",
        domain="news",
    ),
}

SENTIMENT = {
    "sst2": Source(
        take(text="sentence", label="label"),
        (67_349, 0, 872),
        OWN_TERMS,
        "Socher et al. 2013",
        hub="stanfordnlp/sst2",
        revision="8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb",
        splits=NO_TEST,
    ),
    "chnsenticorp": Source(
        take({"0": "negative", "1": "positive"}, text="text", label="label"),
        (9_600, 1_200, 1_200),
        OWN_TERMS,
        "Tan Songbo, ChnSentiCorp",
        hub="lansinuote/ChnSentiCorp",
        revision="b0c4c119c3fb33b8e735969202ef9ad13d717e5a",
        folders=("chnsenticorp_htl",),
        language="zh",
    ),
}

SOURCES: dict[str, Source] = {**INTENTS, **WORDS, **LONG, **TRACE, **TEXTS, **SENTIMENT}
