"""Rules of signals: what is asked to end, what is told within a second, and that others' handlers are left alone."""

import hashlib
import os
import signal
import threading

import pytest

from cl_mlm.experiment.interruption import SIGNALS, Interruption


@pytest.fixture(autouse=True)
def handlers_as_before():
    """Python's own handlers, which a test in the background of a shell may lack; all as before afterwards."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def end_of(interruption, act, *, step=True):
    """Returns what ends a run that does `act` between two steps of a stage, or where no step is taken."""

    def run():
        with interruption.listening(), interruption.at_steps():
            if step:
                interruption.step_done(is_last=False)
            act()

    with pytest.raises((KeyboardInterrupt, SystemExit)) as end:
        run()
    return end.value


def send(*numbers):
    for number in numbers:
        signal.raise_signal(number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, None), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_outside_training_ends_a_run_at_once(number, code):
    end = end_of(Interruption(), lambda: [send(number), pytest.fail("it goes on")], step=False)
    assert getattr(end, "code", None) == code


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGHUP, "SIGHUP")])
def test_the_first_signal_in_training_says_that_a_checkpoint_comes(number, name, capsys):
    end_of(Interruption(), lambda: send(number))
    assert capsys.readouterr().err == (
        f"{name}: writing a checkpoint after this step, then the run ends; once more ends it at once, without one\n"
    )


def test_the_second_says_what_it_cuts_short(capsys):
    end_of(Interruption(), lambda: send(signal.SIGINT, signal.SIGINT))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "Ctrl-C: ends at once; cut short: this step; the checkpoint before it is kept"


def test_a_second_one_while_a_checkpoint_is_written_names_it(capsys):
    interruption = Interruption()

    def write():
        send(signal.SIGINT)
        with interruption.writing():
            send(signal.SIGINT)

    end_of(interruption, write)
    assert "cut short: the writing of a checkpoint" in capsys.readouterr().err


def test_after_the_last_step_a_signal_waits_for_nothing():
    interruption = Interruption()

    def finish():
        interruption.step_done(is_last=True)
        send(signal.SIGINT)
        pytest.fail("the stage goes on")

    end_of(interruption, finish)


def test_an_answer_does_not_wait_for_a_long_operation(capsys):
    def work():
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        for _ in range(100):
            hashlib.pbkdf2_hmac("sha256", b"x", b"y", 4_000_000)  # a second or more in which Python hears nothing

    end_of(Interruption(), work, step=False)
    # Told within the operation: once that has ended, the run does so at once, and has nothing more to say.
    assert capsys.readouterr().err == "Ctrl-C: ends as soon as the present operation does; what was measured is kept\n"


def test_what_is_ignored_stays_ignored_as_under_nohup():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interruption().listening():
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signal.raise_signal(signal.SIGHUP)


def test_handlers_and_threads_are_as_before_afterwards():
    before = [signal.getsignal(number) for number in SIGNALS]
    threads = threading.active_count()
    with Interruption().listening(), Interruption().listening():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1


def test_in_another_thread_nothing_is_changed():
    seen = []

    def listen():
        with Interruption().listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_a_silent_run_answers_nothing(capsys):
    end_of(Interruption(is_told=False), lambda: send(signal.SIGINT))
    assert capsys.readouterr().err == ""


def test_a_forked_process_ends_alone(capfd):
    interruption = Interruption()
    with interruption.listening(), interruption.at_steps():
        interruption.step_done(is_last=False)
        child = os.fork()
        if child == 0:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert interruption.asked is None
    assert capfd.readouterr().err == ""
