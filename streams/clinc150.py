"""CLINC150: 150 intents of 10 domains, 100 training rows each (Larson et al. 2019, EMNLP, arXiv:1909.02027).

Rows come from a local folder or from the hub; they are the same. Out-of-scope rows are left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cl_mlm.data import StageFields, by_field, by_labels, column_codes, find_folder, from_hub, pick, read_splits
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.stream import SPLITS, Scenario, Stream

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["clinc150"]

HUB, HUB_CONFIG = "clinc/clinc_oos", "plus"
REVISION = "155b9c710419136e17307b80d0a13e68cd46b4ec"
OUT_OF_SCOPE = "oos"
FIELDS = StageFields(language="en", source="github.com/clinc/oos-eval", licence="CC BY 3.0")
INTENTS = {
    "banking": (
        "account_blocked balance bill_balance bill_due freeze_account interest_rate min_payment order_checks "
        "pay_bill pin_change report_fraud routing spending_history transactions transfer"
    ),
    "credit_cards": (
        "application_status apr card_declined credit_limit credit_limit_change credit_score damaged_card "
        "expiration_date improve_credit_score international_fees new_card redeem_rewards "
        "replacement_card_duration report_lost_card rewards_balance"
    ),
    "kitchen_and_dining": (
        "accept_reservations calories cancel_reservation confirm_reservation cook_time food_last how_busy "
        "ingredient_substitution ingredients_list meal_suggestion nutrition_info recipe restaurant_reservation "
        "restaurant_reviews restaurant_suggestion"
    ),
    "home": (
        "calendar calendar_update next_song order order_status play_music reminder reminder_update shopping_list "
        "shopping_list_update smart_home todo_list todo_list_update update_playlist what_song"
    ),
    "auto_and_commute": (
        "current_location directions distance gas gas_type jump_start last_maintenance mpg oil_change_how "
        "oil_change_when schedule_maintenance tire_change tire_pressure traffic uber"
    ),
    "travel": (
        "book_flight book_hotel car_rental carry_on exchange_rate flight_status international_visa lost_luggage "
        "plug_type timezone translate travel_alert travel_notification travel_suggestion vaccines"
    ),
    "utility": (
        "alarm calculator date definition find_phone flip_coin make_call measurement_conversion roll_dice "
        "share_location spelling text time timer weather"
    ),
    "work": (
        "direct_deposit income insurance insurance_change meeting_schedule next_holiday payday pto_balance "
        "pto_request pto_request_status pto_used rollover_401k schedule_meeting taxes w2"
    ),
    "small_talk": (
        "are_you_a_bot do_you_have_pets fun_fact goodbye greeting how_old_are_you meaning_of_life tell_joke "
        "thank_you what_are_your_hobbies what_can_i_ask_you what_is_your_name where_are_you_from "
        "who_do_you_work_for who_made_you"
    ),
    "meta": (
        "cancel change_accent change_ai_name change_language change_speed change_user_name change_volume maybe no "
        "repeat reset_settings sync_device user_name whisper_mode yes"
    ),
}
DOMAIN_OF = {intent: domain for domain, intents in INTENTS.items() for intent in intents.split()}


def clinc150(
    *,
    path: str | None = None,
    labels_per_stage: int = 10,
    stages_by: Literal["labels", "domains"] = "labels",
    order_seed: int | None = 0,
    scenario: Scenario = "class_incremental",
) -> Stream:
    """Returns CLINC150 in stages of `labels_per_stage` intents, or in its ten domains of 15 intents.

    Args:
        path: a folder with train, validation and test files (`text`, `label`); null: `clinc150` in the folder
            `CL_MLM_DATA` where there is one, else the hub.
        labels_per_stage: intents that a stage brings, for `labels`.
        stages_by: `labels`: stages of any intents; `domains`: stage = domain.
        order_seed: shuffles intents or domains; null: sorted by name.
        scenario: how rows are predicted.

    Raises:
        ConfigError: there is no such folder, or the intents cannot be cut like that.
        DataError: faults of the files, or a hub out of reach.
    """
    if stages_by not in ("labels", "domains"):
        raise ConfigError(f"stream.stages_by: must be labels or domains, got {stages_by!r}")
    folder = _local(path)
    raw = _from_hub() if folder is None else read_splits(folder)
    splits = {split: _prepared(raw, split) for split in SPLITS}
    if stages_by == "domains":
        return by_field(splits, "domain", name="clinc150", order_seed=order_seed, scenario=scenario, **FIELDS)
    return by_labels(
        splits,
        name="clinc150",
        labels_per_stage=labels_per_stage,
        order_seed=order_seed,
        scenario=scenario,
        **FIELDS,
    )


def _local(path: str | None) -> Path | None:
    """Returns the folder to read; None: there is none, and the hub is read."""
    if path is not None:
        return find_folder(path)
    root = os.environ.get("CL_MLM_DATA")
    folder = Path(root).expanduser() / "clinc150" if root else None
    return folder if folder is not None and folder.is_dir() else None


def _from_hub() -> dict[str, Dataset]:
    """Returns the hub's splits with the names of intents as `label`; the text of all is 1 MB and stays in memory."""
    import pyarrow as pa
    from datasets import Dataset, load_dataset

    try:
        hub = from_hub(lambda: load_dataset(HUB, HUB_CONFIG, revision=REVISION))
    except OSError as error:  # the hub's own errors are kinds of it
        raise DataError(
            f"clinc150: cannot be read from the hub ({HUB}): {error}; give stream.path or set CL_MLM_DATA"
        ) from error
    splits = {}
    for split in SPLITS:
        names = pa.array(hub[split].features["intent"].names)
        table = hub[split].data
        labels = names.take(table.column("intent").combine_chunks())
        splits[split] = Dataset(pa.table({"text": table.column("text"), "label": labels}))
    return splits


def _prepared(raw: Mapping[str, Dataset], split: str) -> Dataset:
    """Returns the in-scope rows of a split with the columns `text`, `label`, `domain`."""
    import numpy as np

    if split not in raw:
        raise DataError(f"clinc150: must have a {split} split, got {', '.join(raw)}")
    dataset = raw[split].select_columns(["text", "label"])
    codes, labels = column_codes(dataset, "label", f"clinc150 {split}")
    unknown = [label for label in labels if label not in DOMAIN_OF and label != OUT_OF_SCOPE]
    if unknown:
        raise DataError(f"clinc150 {split}: labels must be the intents of CLINC150, got {', '.join(unknown[:5])}")
    domains = np.array([DOMAIN_OF.get(label, OUT_OF_SCOPE) for label in labels])[codes]
    dataset = dataset.add_column("domain", domains.tolist())
    if OUT_OF_SCOPE not in labels:
        return dataset
    return pick(dataset, np.flatnonzero(codes != labels.index(OUT_OF_SCOPE)))
