"""Templates: jinja2 in a sandbox, filled with the columns of a row; training and prompting share them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cl_mlm.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

MASK = "mask"
SLOT = "\ue000"  # `mask` renders to this character of the private use area, which texts do not use
GIVEN = ("labels", "choices", MASK)
# A template that could read the answer would put it into the question.
ANSWER_COLUMNS = ("label", "target")


class Template:
    """One template.

    It sees the columns of a row except that of the answer, `labels` (names of the labels that the row may be given),
    `choices` (their words) and, for a masked model, `mask` (where the answer goes). The sandbox has no loaders, no
    attributes that begin with `_`, and cannot change what it is given. An unknown name is an error, not an empty text.

    Args:
        text: the template.
        key: its key in the config, for messages.

    Raises:
        ConfigError: the text is no valid template.
    """

    def __init__(self, text: str, key: str) -> None:
        from jinja2 import StrictUndefined, TemplateError, meta
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self.text, self.key = text, key
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        try:
            self.names = frozenset(meta.find_undeclared_variables(environment.parse(text)))
            self._template = environment.from_string(text)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f" in line {line}" if line else ""
            raise ConfigError(f"{key}: must be a jinja2 template, got {text!r}: {error}{where}") from error

    def faults(self, columns: Sequence[str], of: str, *, is_cloze: bool) -> list[str]:
        """Returns one line for each name in the template that rows do not have, and where a cloze has no `mask`.

        Args:
            columns: of the rows.
            of: names the rows in messages.
            is_cloze: whether the model fills in masks.
        """
        allowed = [*(c for c in columns if c not in ANSWER_COLUMNS), *(n for n in GIVEN if is_cloze or n != MASK)]
        faults = []
        for name in sorted(self.names.difference(allowed)):
            why = "no such field"
            if name in ANSWER_COLUMNS:
                why = "is the answer, which is put behind the prompt"
            elif name == MASK:
                why = "is for masked models; this one writes the answer behind the prompt"
            faults.append(f"{self.key}: {name}: {why} in {of}{nearest(name, allowed)}; allowed: {', '.join(allowed)}")
        if is_cloze and MASK not in self.names:
            faults.append(
                f"{self.key}: must hold {{{{ mask }}}} where a masked model fills in the answer, got {self.text!r}"
            )
        return faults

    def render(
        self,
        row: Mapping[str, Any],
        given: Mapping[str, Any],
        where: str,
        hidden: Collection[str] = ANSWER_COLUMNS,
    ) -> str:
        """Returns the text for a row.

        Args:
            row: the columns of the row.
            given: values of the names in `GIVEN`.
            where: names the row in messages.
            hidden: columns that the template does not see.

        Raises:
            DataError: the template fails on the row.
        """
        try:
            return self._template.render({k: v for k, v in row.items() if k not in hidden} | dict(given))
        except Exception as error:  # a template is a program of the user's, which may fail in any way
            raise DataError(f"{self.key}: fails on {where}: {type(error).__name__}: {error}") from error
