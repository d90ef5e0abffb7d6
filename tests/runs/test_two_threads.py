"""A run on two threads is made again to the bit."""

from multiprocessing import get_context

from verdict import compare

import cl_mlm


def test_a_run_on_two_threads_is_made_again_to_the_bit(fast, write_rows, tmp_path):
    from cl_mlm.experiment.resuming import rerun_run

    # Many tokens a step: torch shares out only what is large.
    words = {"cold": "snow ", "hot": "sun ", "loud": "drum ", "quiet": "night "}
    rows = [{"text": f"{word * 60}{i}", "label": label} for i in range(8) for label, word in words.items()]
    fast["stream"]["path"] = str(write_rows(tmp_path / "data", train=rows))
    fast["training"] |= {"threads": 2, "epochs": 2, "batch_size": 8}
    fast["strategies"] = {"replay": {"capacity": 8}, "ewc": {"weight": 10.0}}
    fast["checkpoint"] = {"reuse_stages": 0}

    def work():
        import torch

        first = cl_mlm.run(fast, progress=False)
        assert torch.get_num_threads() == 2
        is_equal, lines = rerun_run(first.folder)
        assert is_equal, lines

    # In a process of its own: threads that torch has started do not outlive the forks of other tests.
    process = get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 0
    first, second = sorted((path for path in tmp_path.glob("runs/fast/*")), key=lambda path: len(path.name))
    faults = compare(first, second)
    # The only difference that there must be: what the second run is called.
    assert [fault for fault in faults if first.name not in fault] == []
