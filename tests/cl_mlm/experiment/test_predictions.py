import pytest

from cl_mlm.errors import RunFolderError
from cl_mlm.experiment.predictions import write_per_class
from cl_mlm.run_folder import RunFolder


def test_predictions_that_cannot_be_read_are_named_and_no_table_is_made_of_them(small_stream, tmp_path):
    folder = RunFolder(tmp_path)
    folder.predictions("1").parent.mkdir()
    folder.predictions("1").write_bytes(b"PAR1")
    with pytest.raises(RunFolderError, match=r"predictions/1.parquet: cannot be read"):
        write_per_class(folder, small_stream)
