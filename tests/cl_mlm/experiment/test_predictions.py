import cl_mlm


def test_predictions_that_cannot_be_read_leave_no_old_per_class_table(fast, caplog):
    first = cl_mlm.run(fast)
    (first.folder / "predictions" / "1.parquet").write_bytes(b"PAR1")
    (first.folder / "summary.json").unlink()
    again = cl_mlm.run(fast)
    assert "so there is no per_class.csv" in caplog.text
    assert not (again.folder / "per_class.csv").exists()
