"""Instructions and chat: templates that do not fit their rows, and models that have no form for a conversation."""

import json

from tests.odd_inputs.case import Case, data

HEAD = "experiment: odd\nstream: {name: files, path: data, labels_per_stage: 2, order_seed: null, "
TAIL = "}\nmodel: {name: MODEL}\ntraining: {steps: 2, batch_size: 4, max_length: 32}\n"
TEMPLATE = "{% for m in messages %}{{ m.role + ':' + m.content }}{% endfor %}"


def case(given: str, says: str, keys: str, model: str = "tiny-decoder", more: str = "") -> Case:
    """Returns a case of `check` whose `stream` section has these keys, too."""
    return Case(given, says, files=data(config=HEAD + keys + TAIL.replace("MODEL", model) + more))


TALKS = """\
experiment: odd
stream: {name: files, path: data, stages_by: whole, objective: conversation, options: OPTIONS}
model: {name: tiny-decoder}
training: {steps: 2, batch_size: 4, max_length: 32}
"""
ENDED = TEMPLATE.replace("m.content", "m.content + eos_token")


def talk(*roles: str, content: str = "a word", **more: object) -> dict[str, object]:
    """Returns a row of one conversation with turns of these roles."""
    return {"messages": [{"role": role, "content": content, **more} for role in roles]}


def talks(given: str, says: str, row: dict[str, object], code: int = 2, **options: object) -> Case:
    """Returns a case of `check` whose second conversation is this row."""
    good = [{"messages": [{"role": "user", "content": f"{s}"}, {"role": "assistant", "content": "b"}]} for s in "xyz"]
    files = {
        f"data/{split}.jsonl": "".join(json.dumps(each) + "\n" for each in ([good[i], row] if not i else [good[i]]))
        for i, split in enumerate(("train", "validation", "test"))
    }
    config = TALKS.replace("OPTIONS", json.dumps({"chat_template": ENDED, **options}))
    return Case(given, says, code, files={"config.yaml": config, **files})


CASES = [
    talks("a conversation that ends with the user", "must end with the assistant", talk("user", "assistant", "user")),
    talks("roles out of order", "must have user and assistant in turns, the user first", talk("assistant", "user")),
    talks("an unknown role", "must have only the roles system, user, assistant, got 'bot'", talk("user", "bot")),
    talks("a system that speaks late", "must have the role system once, first", talk("user", "system", "assistant")),
    talks("an empty turn", "must have no turn of the user without text", talk("user", "assistant", content=" ")),
    talks("a weight of a turn that is 3", "must have no weight but 0 and 1", talk("user", "assistant", weight=3)),
    talks("a conversation of no messages", "must be a list of {role, content}", {"messages": []}),
    talks("a conversation that is a text", "'messages'", {"messages": "hi"}),
    talks(
        "a conversation with a model that has no chat template",
        "stream.objective: conversation: needs a tokenizer with a chat template",
        talk("user", "assistant"),
        chat_template=None,
    ),
    talks("a conversation as it should be", "good to run", talk("user", "assistant", "user", "assistant"), 0),
    case("a template with a field that rows lack", "stream.template: txt: no such field", "template: '{{ txt }}'"),
    case("a template that is no jinja2", "stream.template: must be a jinja2 template", "template: '{{ text'"),
    case(
        "a template that names no field",
        "stream.template: must name a field of the row",
        "template: 'Say {{ choices }}'",
    ),
    case("a template with the answer in it", "label: is the answer", "template: '{{ text }} {{ label }}'"),
    case(
        "a template that is empty on every row", "must not give an empty text", "template: {source: '{{ text[:0] }}'}"
    ),
    case("a set of templates that is not shipped", "must be a template, which names a field", "template: olora"),
    case("a set of templates for other stages", "stream.template: o_lora has none for 'labels-01'", "template: o_lora"),
    case(
        "a template for a stage that there is not",
        "stream.templates.labels-09: no stage or task is called so",
        "templates: {labels-09: '{{ text }}'}",
    ),
    case(
        "chat with a model that has no chat template",
        "stream.options.chat: needs a tokenizer with a chat template",
        "as_text: true, text_options: {chat: true}",
    ),
    case(
        "chat with an encoder-decoder",
        "stream.options.chat: needs a decoder",
        "as_text: true, text_options: {chat: true}",
        "tiny-encoder-decoder",
    ),
    case(
        "a text of the system without chat",
        "stream.options.system: must be null without chat",
        "as_text: true, text_options: {system: be kind}",
    ),
    case(
        "a chat template that does not end a turn",
        "stream.options.chat: the chat template must end a turn of the assistant with a special token",
        f'as_text: true, text_options: {{chat: true, chat_template: "{TEMPLATE}"}}',
    ),
    case(
        "prompts through a chat template that the model has not",
        "prompting.chat: needs a tokenizer with a chat template",
        "as_text: true",
        more="prompting: {template: '{{ source }}', chat: true}\n",
    ),
]
