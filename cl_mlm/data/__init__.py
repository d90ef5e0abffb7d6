"""From files to a stream that may be trained on; those who write streams import the names of this room from here."""

from cl_mlm.arrow import arrow_batches, pick
from cl_mlm.data.conversation_form import as_conversations
from cl_mlm.data.entity_staging import by_types, row_types
from cl_mlm.data.file_faults import same_in_many
from cl_mlm.data.file_format import Missing, Reading
from cl_mlm.data.files import find_data, find_folder, is_saved_dataset, read_file, read_splits, read_table
from cl_mlm.data.hub_access import from_hub
from cl_mlm.data.label_columns import places, rarest_labels
from cl_mlm.data.label_forms import label_form, one_spelling
from cl_mlm.data.ordering import reordered, stage_order
from cl_mlm.data.row_plan import lacks_value
from cl_mlm.data.sampling import pick_rows, picked_notes, rows_faults
from cl_mlm.data.staging import (
    StageFields,
    by_field,
    by_labels,
    by_source,
    carve_rows,
    carve_validation,
    column_codes,
)
from cl_mlm.data.text_form import as_text
from cl_mlm.data.wordings import WordingSet

__all__ = [
    "Missing",
    "Reading",
    "StageFields",
    "WordingSet",
    "arrow_batches",
    "as_conversations",
    "as_text",
    "by_field",
    "by_labels",
    "by_source",
    "by_types",
    "carve_rows",
    "carve_validation",
    "column_codes",
    "find_data",
    "find_folder",
    "from_hub",
    "is_saved_dataset",
    "label_form",
    "lacks_value",
    "one_spelling",
    "pick",
    "pick_rows",
    "picked_notes",
    "places",
    "rarest_labels",
    "read_file",
    "read_splits",
    "read_table",
    "reordered",
    "row_types",
    "rows_faults",
    "same_in_many",
    "stage_order",
]
