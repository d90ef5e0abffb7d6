"""Several heads on one body: what each says, what trains it, and how it is saved."""

import pytest

from cl_mlm.data.tasks import tasks_of

KEYS = ["classification", "tagging", "question_answering"]


@pytest.fixture
def loaded(three_objectives, model_folder):
    """Heads for the stages of a stream, and its training rows: `loaded("bert", KEYS)`."""

    def load(kind, stages):
        from cl_mlm.config.components import make_stream
        from cl_mlm.config.schema import ModelConfig
        from cl_mlm.models.shared_body import load_heads
        from cl_mlm.tokens.split_rows import SplitRows

        options = {"question_answering": {"stride": 16}}
        stages = [
            stage if isinstance(stage, dict) else {"path": stage, "objective": stage, "options": options.get(stage, {})}
            for stage in stages
        ]
        stream = make_stream("files", {"path": str(three_objectives), "stages_by": "files", "stages": stages})
        tasks = tasks_of(stream)
        tasks.count_labels(len(stages) - 1, len(stages) - 2)
        backbone = load_heads(ModelConfig(model_folder(kind)), tasks, 0, 64)
        backbone.model.eval()
        return backbone, SplitRows(stream, "train", tasks, backbone.tokenizer, 64), tasks

    return load


@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2", "llama"])
def test_logits_on_the_same_pass_are_those_of_a_pass_of_its_own(kind, loaded):
    """What lwf reads of another head: the body is run once."""
    import numpy as np
    import torch

    backbone, rows, _ = loaded(kind, KEYS)
    calls = []
    # What stands in for the body is called as it is, hooks included: its layers are not.
    layers = next(module for module in backbone.body.modules() if isinstance(module, torch.nn.ModuleList))
    handle = layers[0].register_forward_hook(lambda module, inputs, output: calls.append(1))
    for stage in range(3):
        batch = rows.collate(rows.ids(stage))
        with torch.no_grad():
            outputs = backbone.forward(batch)
            found = {key: outputs.lazy_logits(key) for key in KEYS}
            assert len(calls) == 1
            for key in KEYS:
                alone = backbone.task_model(key)
                assert torch.equal(found[key], alone.logits(alone.model(**alone.arguments(batch))))
        calls.clear()
    handle.remove()
    with pytest.raises(ValueError, match="of one task, got classification, tagging"):
        rows.collate(np.concatenate([rows.ids(0)[:1], rows.ids(1)[:1]]))


def test_squares_of_gradients_are_those_of_body_and_active_head(loaded):
    """Hooks against one backward pass a row; parameters of the other heads have none."""
    import torch

    from cl_mlm.mechanisms.per_example import SquaredGradients

    backbone, rows, tasks = loaded("bert", KEYS)
    parameters = dict(backbone.model.named_parameters())
    for stage, key in enumerate(KEYS):
        batch = rows.collate(rows.ids(stage)[:4])

        def losses(batch=batch, key=key):
            return tasks.by_key[key].objective.loss(backbone.forward(batch), batch)

        squares = SquaredGradients(backbone.model, parameters)
        assert squares.add(losses, batch.input_row)
        expected = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for loss in losses():
            grads = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
            for name, grad in zip(parameters, grads, strict=True):
                expected[name] += 0 if grad is None else grad.square()
        for name, values in squares.sums.items():
            torch.testing.assert_close(values, expected[name], rtol=1e-3, atol=1e-6)
        active = {name.split(".")[1] for name, s in squares.sums.items() if name.startswith("heads.") and s.any()}
        assert active == {key}
        assert any(s.any() for name, s in squares.sums.items() if name.startswith("body."))


@pytest.mark.parametrize(("kind", "reading"), [("bert", "masked"), ("gpt2", "causal")])
def test_a_language_model_stands_on_the_same_body_and_is_tied_to_it(kind, reading, loaded, tmp_path):
    import torch
    import transformers

    language = {"path": KEYS[0], "objective": "language_modelling", "options": {"kind": reading}}
    backbone, rows, _ = loaded(kind, [KEYS[0], language])
    writer = backbone.task_model("language_modelling")
    words = backbone.body.get_input_embeddings().weight
    assert writer.model.get_output_embeddings().weight is words
    with torch.no_grad():
        words.mul_(1.5)
    writer.save(tmp_path)
    auto = {"masked": transformers.AutoModelForMaskedLM, "causal": transformers.AutoModelForCausalLM}[reading]
    again, batch = auto.from_pretrained(tmp_path).eval(), rows.collate(rows.ids(1)[:3])
    with torch.no_grad():
        torch.testing.assert_close(again(**batch.inputs).logits, backbone.forward(batch).logits)


def test_training_puts_every_module_in_training_mode_but_a_body_that_is_frozen_as_a_whole(loaded):
    from cl_mlm.config.schema import FinetuningConfig

    backbone, _, _ = loaded("bert", KEYS)
    for mode in ("full", "head"):
        backbone.model.eval()
        backbone.set_trainable(FinetuningConfig(mode=mode), 0)
        backbone.train_mode()
        of_body = {id(module) for module in backbone.body.modules()}
        assert all(module.training for module in backbone.model.modules() if id(module) not in of_body)
        assert {module.training for module in backbone.body.modules()} == {mode == "full"}
