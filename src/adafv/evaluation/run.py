"""Run an evaluation into a folder, which keeps what earlier runs have measured there."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from adafv.evaluation import merge, report
from adafv.evaluation.entry import check_meta, check_rows, write_entry
from adafv.evaluation.evaluate import Evaluation, Findings
from adafv.evaluation.paired import compared, paired
from adafv.evaluation.rows import rows_of
from adafv.evaluation.workers import Workers
from adafv.models.load import fingerprint, processor_fingerprint
from adafv.utils.checks import checked
from adafv.utils.files import check_unread, writable_folder
from adafv.utils.machine import machine_of
from adafv.utils.records import distinct

__all__ = ["EvaluationRun", "Results"]


@checked
@dataclass(frozen=True)
class Results:
    """The results that a folder has after a run.

    Attributes:
        meta, rows, pairs: of all runs, as results.json has them.
        refusals: what this run could not measure: suite, method, keep and reason.
        outdated: suite, method and keep of earlier runs that answered other questions, and left.
        files: that were written.
    """

    meta: dict[str, Any]
    rows: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    refusals: list[dict[str, Any]]
    outdated: set[merge.Measured]
    files: list[Path]


@checked
@dataclass(frozen=True, kw_only=True)
class EvaluationRun:
    """An evaluation whose results are put together with those that its folder has.

    Args:
        plan: the evaluation.
        out: the folder, of answers and results.
        against: methods that all others are compared with, see `adafv.evaluation.paired.compared`.
        entry: folder for an entry of the leaderboard; None: none is written.

    Raises:
        ValueError: a folder that cannot be written, has results of another command or a file that
            is asked about; a method in `against` that does not take part.
    """

    plan: Evaluation
    out: Path
    against: Sequence[str] = ()
    entry: Path | None = None

    def __post_init__(self) -> None:
        writable_folder(self.out)
        for file in report.FILES:
            check_unread(self.out / file, self.plan.files)
        if self.entry is not None:
            writable_folder(self.entry)
        everything = [*self.plan.measured, *merge.configurations_in(merge.earlier(self.out))]
        compared([method for _, method, _ in everything], self.against)

    def check(self, model: PreTrainedModel, processor: ProcessorMixin, name: str) -> None:
        """Raise a `ValueError` if results of a model and those of the folder don't go together.

        Args:
            name: of the model.
        """
        self._before(self._meta(model, processor, name, datetime.now(UTC)))

    def run(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        name: str,
        start: datetime | None = None,
        progress: bool = False,
        workers: Workers | None = None,
    ) -> Results:
        """Answer what has no answer in the folder yet, and write all of its results.

        Args:
            name: of the model.
            start: when the run began (UTC); None: now.
            progress: a bar on stderr.
            workers: processes that answer in place of this one.

        Raises:
            ValueError: see `check` and `Evaluation.opened`.
        """
        start = start or datetime.now(UTC)
        # nobody else writes there until the results are written
        with self.plan.opened(model, processor, self.out, name) as log:
            before = self._before(self._meta(model, processor, name, start))
            found = self.plan.answer(
                model,
                processor,
                log,
                name=name,
                progress=progress,
                earlier=merge.configurations_in(before),
                workers=workers,
            )

            # old and new results together; of what turned out impossible meanwhile none stays
            references = list(self.against) or compared(distinct(found.records, "method"))
            pairs = paired(found.records, _references(before, references))
            impossible = found.outdated | found.left_out.keys()
            rows, pairs = merge.merged(before, rows_of(found.records), pairs, impossible)

            refusals = _refusals(found)
            meta = self._meta(model, processor, name, start, against=references, left_out=refusals)
            meta = merge.merged_meta(before, meta, self.plan.measured)
            report.write(self.out, meta, rows, pairs)

        files = [self.out / file for file in report.FILES if pairs or file != "pairs.csv"]
        if self.entry is not None:
            files.append(write_entry(self.entry, meta, rows, meta["machine"]))
        return Results(meta, rows, pairs, refusals, found.outdated, files)

    def _meta(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        name: str,
        start: datetime,
        **found: Any,
    ) -> dict[str, Any]:
        """Return what makes the rows, and what was found so far."""
        return report.meta_of(
            model,
            name,
            start,
            weights=fingerprint(model),
            processor=processor_fingerprint(processor),
            machine=machine_of(model.device),
            seed=self.plan.seed,
            split=self.plan.split,
            limit=self.plan.limit,
            batch_size=self.plan.batch_size,
            max_new_tokens=self.plan.max_new_tokens,
            **found,
        )

    def _before(self, meta: dict[str, Any]) -> dict[str, Any] | None:
        """Return the results that the folder has, with which those of a run can stand.

        Args:
            meta: of the run.

        Raises:
            ValueError: they cannot, or not be an entry where one is to be written.
        """
        before = merge.earlier(self.out)
        merge.check_mergeable(before, meta, self.plan.counts, self.plan.measured)
        if self.entry is not None:
            kept, _ = merge.merged(before, [], [], self.plan.measured)
            check_rows(kept)
            check_meta(merge.merged_meta(before, meta, self.plan.measured))
        return before


def _references(before: dict[str, Any] | None, own: list[str]) -> list[str]:
    """Return the methods that others are compared with, in this run and in earlier ones."""
    earlier = [] if before is None else distinct(before["pairs"], "method")
    return list(dict.fromkeys([*own, *earlier]))


def _refusals(found: Findings) -> list[dict[str, Any]]:
    """Return what methods refuse, for results.json."""
    refusals = []
    for (suite, method, keep), reason in found.left_out.items():
        refusals.append({"suite": suite, "method": method, "keep": keep, "reason": reason})
    return refusals
