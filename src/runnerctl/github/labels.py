"""Labels of a runner. GitHub compares them without case and never lets a read-only one go."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

import msgspec

from runnerctl.errors import ConfigError
from runnerctl.github.models import Label
from runnerctl.github.operations import Operations
from runnerctl.github.transport import Response

__all__ = ["LabelOperations"]


class _Labelled(msgspec.Struct):
    """The answer of the label operations."""

    labels: tuple[Label, ...] = ()


class LabelOperations(Operations):
    """Each method that writes returns the custom labels GitHub has afterwards, lower-cased."""

    def labels(self, runner_id: int) -> tuple[Label, ...]:
        """The labels of a runner as GitHub spells them, read-only ones included."""
        answer = self.client.get(
            f"{self._runners}/{runner_id}/labels", what=f"read the labels of runner {runner_id}"
        )
        found: _Labelled = answer.decode(_Labelled)
        return found.labels

    def set_labels(self, runner_id: int, labels: Iterable[str]) -> frozenset[str]:
        """Replace the custom labels. Raises ConfigError when GitHub refuses one of them."""
        wanted = sorted(set(labels))
        answer = self.client.put(
            f"{self._runners}/{runner_id}/labels",
            {"labels": wanted},
            what=f"set the labels of runner {runner_id}",
            accept=(422,),
        )
        return self._custom(answer, wanted)

    def add_labels(self, runner_id: int, labels: Iterable[str]) -> frozenset[str]:
        """Add custom labels; those it has already stay as they are. At least one, at most 100.

        Raises ConfigError when GitHub refuses one of them.
        """
        wanted = sorted(set(labels))
        answer = self.client.post(
            f"{self._runners}/{runner_id}/labels",
            {"labels": wanted},
            what=f"add labels to runner {runner_id}",
            accept=(422,),
            repeatable=True,
        )
        return self._custom(answer, wanted)

    def remove_label(self, runner_id: int, label: str) -> bool:
        """Take one custom label away; False when the runner (or the label) was not there.

        Raises ConfigError for a label that GitHub gives and keeps (``self-hosted``, ``linux``, ``x64``).
        """
        answer = self.client.delete(
            f"{self._runners}/{runner_id}/labels/{quote(label, safe='')}",
            what=f"remove label {label} of runner {runner_id}",
            accept=(422,),
        )
        if answer.status == 422:
            raise ConfigError(
                f"GitHub keeps the label {label}: {answer.message}",
                where=self.scope.name,
                remedy="register the runner with github_runner_no_default_labels to be without it",
            )
        return answer.status != 404

    def clear_labels(self, runner_id: int) -> frozenset[str]:
        """Take all custom labels away; a runner that is gone has none either."""
        answer = self.client.delete(
            f"{self._runners}/{runner_id}/labels", what=f"clear the labels of runner {runner_id}"
        )
        return frozenset() if answer.status == 404 else self._custom(answer, [])

    def _custom(self, answer: Response, wanted: Iterable[str]) -> frozenset[str]:
        if answer.status == 422:
            raise ConfigError(
                f"GitHub refuses the labels {', '.join(wanted)}: {answer.message}",
                where=self.scope.name,
                remedy="correct the labels in the inventory",
            )
        listed: _Labelled = answer.decode(_Labelled)
        return frozenset(label.name.lower() for label in listed.labels if label.type == "custom")
