import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.sentiment import interval, report


def written(folder, before, after):
    (folder / "predictions").mkdir(parents=True)
    for name, predictions in (("before", before), ("0", after)):
        table = pa.table({"prediction": list(predictions), "reference": list("ggbb")})
        pq.write_table(table, folder / "predictions" / f"{name}.parquet")
    return folder


def test_the_interval_is_that_of_the_mean_over_seeds_by_t():
    # Standard deviation 0.1/sqrt(2), standard error 0.05, t of one degree of freedom at 95 % 12.706.
    assert interval([0.8, 0.9]) == "85.0 ± 63.5"
    assert interval([None, 0.0]) == "0.0 ± 0.0"


def test_the_report_has_accuracy_by_seed_and_every_class_before_and_after(tmp_path):
    folders = [written(tmp_path / "0", "gggg", "ggbb"), written(tmp_path / "1", "bbbb", "ggbb")]
    text = report(folders)
    assert "| before | 50 | 50 | 50.0 ± 0.0 |" in text
    assert "| after | 100 | 100 | 100.0 ± 0.0 |" in text
    assert "| g | after | 100.0 ± 0.0 | 100.0 ± 0.0 | 100.0 ± 0.0 | 2 |" in text
    # Of two seeds one calls everything g (recall 1), one nothing (recall 0).
    assert "| g | before | 25.0 ± 317.7 | 50.0 ± 635.3 |" in text
