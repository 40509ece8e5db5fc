"""Plans into statements: what is staged, checked and stored within one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atlas_cdc_reconciler.letters import Fault, LetterClass
from atlas_cdc_reconciler.sink.redshift import ddl, letters, statements
from atlas_cdc_reconciler.sink.redshift.client import Session
from atlas_cdc_reconciler.sink.redshift.dialect import Stored, stored_as
from atlas_cdc_reconciler.sink.redshift.letters import Buried
from atlas_cdc_reconciler.sink.redshift.objects import Attempt, StagedFiles
from atlas_cdc_reconciler.sink.redshift.plan import Gone, Staged, TablePlan
from atlas_cdc_reconciler.sink.redshift.queries import Q
from atlas_cdc_reconciler.sink.redshift.staging import staged_table
from atlas_cdc_reconciler.tables import Column, Table


class FaultsFoundError(Exception):
    """Changes of rows that are not there: the batch is to be planned again without them."""

    def __init__(self, faults: Mapping[int, Fault]) -> None:
        super().__init__(f"{len(faults)} changes of rows that are not there")
        self.faults = faults


@dataclass(slots=True)
class _Stage:
    """A staging table: how it is made, and the files that go into it."""

    create: str
    files: StagedFiles

    @property
    def name(self) -> str:
        return self.files.stage


@dataclass(slots=True)
class _TableStages:
    """The staging tables of a plan."""

    plan: TablePlan
    gone: _Stage | None = None
    inserted: _Stage | None = None
    deleted: _Stage | None = None
    merged: _Stage | None = None
    updated: list[tuple[_Stage, Staged]] | None = None


class Storing:
    """One attempt to store something: its files first, then all of its statements."""

    def __init__(self, session: Session, attempt: Attempt, iam_role: str) -> None:
        self._session = session
        self._attempt = attempt
        self._iam_role = iam_role
        self._tables: list[_TableStages] = []
        self._letters = StagedFiles(f"stage_{letters.LETTERS}")
        self._parts = StagedFiles(f"stage_{letters.PARTS}")

    def prepare(self, plans: Sequence[TablePlan], buried: Sequence[Buried], now_us: int) -> None:
        """Put all files into the bucket: before the transaction, which others wait for."""
        self._tables = [self._prepared(plan) for plan in plans]
        if buried:
            self._attempt.put_rows(self._letters, letters.letters_table(buried, now_us))
            self._attempt.put_rows(self._parts, letters.parts_table(buried))

    def store(self) -> None:
        """Store it, in the open transaction. Raises FaultsFoundError before anything is changed."""
        faults: dict[int, Fault] = {}
        left: dict[str, list[tuple[int, int]]] = {}
        for stages in self._tables:
            left[stages.plan.table.name] = self._check_gone(stages, faults)
            self._check_updated(stages, faults)
        if faults:
            raise FaultsFoundError(faults)
        for stages in self._tables:
            self._take_away(stages, left[stages.plan.table.name])
            self._add(stages)
        self.store_letters(self._letters, self._parts)

    def insert(self, table: Table, files: StagedFiles) -> None:
        """Add rows whose files are in the bucket, if there are any."""
        if not files.entries:
            return
        columns = _stored(table.columns)
        create = ddl.create_stage(files.stage, columns, distributed_by=ddl.distribution_key(table))
        self._add_rows(table, _Stage(create, files))

    def store_letters(self, letter_files: StagedFiles, part_files: StagedFiles) -> None:
        """Store dead letters whose files are in the bucket, if there are any."""
        if not letter_files.entries:
            return
        ((newest,),) = self._session.run(Q["newest_letter"])
        for table, files, columns in (
            (letters.LETTERS, letter_files, letters.LETTER_COLUMNS),
            (letters.PARTS, part_files, letters.PART_COLUMNS),
        ):
            stage = _Stage(letters.create_stage(files.stage, columns), files)
            self._copy_in(stage)
            self._session.run(letters.insert(table, stage.name, columns), {"newest": newest})
            self._session.run(statements.drop(stage.name))

    # Before the transaction -----------------------------------------------------------------------

    def _prepared(self, plan: TablePlan) -> _TableStages:
        stages = _TableStages(plan)
        if plan.gone is not None:
            stages.gone = self._put_gone(plan.table, plan.gone)
        for purpose in ("inserted", "deleted", "merged"):
            staged: Staged | None = getattr(plan, purpose)
            if staged is not None:
                setattr(stages, purpose, self._put(plan.table, purpose, staged))
        stages.updated = [
            (self._put(plan.table, f"updated_{at}", staged), staged)
            for at, staged in enumerate(plan.updated)
        ]
        return stages

    def _put(self, table: Table, purpose: str, staged: Staged) -> _Stage:
        stage = _new_stage(table, purpose, staged.columns)
        rows = staged_table(staged.columns, staged.rows, staged.numbers)
        self._attempt.put_rows(stage.files, rows)
        return stage

    def _put_gone(self, table: Table, gone: Gone) -> _Stage:
        """Numbered by their place in the plan: one row stands for many changes."""
        columns = gone.staged.columns
        stage = _new_stage(table, "gone", columns, with_copies=True)
        copies = [len(takers) for takers in gone.takers]
        rows = staged_table(columns, gone.staged.rows, range(len(copies)), copies)
        self._attempt.put_rows(stage.files, rows)
        return stage

    # Within the transaction -----------------------------------------------------------------------

    def _check_gone(self, stages: _TableStages, faults: dict[int, Fault]) -> list[tuple[int, int]]:
        """Find deletions of rows that are not there.

        Returns (place in the plan, how many) of rows that stay, having the values of deleted ones.
        """
        plan = stages.plan
        if stages.gone is None or plan.gone is None:
            return []
        self._copy_in(stages.gone)
        left = []
        for at, found in self._session.run(
            statements.miscounted_rows(plan.table, stages.gone.name)
        ):
            takers = plan.gone.takers[at]
            for number in takers[found:]:
                faults[number] = Fault(LetterClass.MISSING_ROW, "the row is not here")
            if found > len(takers):
                left.append((at, found - len(takers)))
        return left

    def _check_updated(self, stages: _TableStages, faults: dict[int, Fault]) -> None:
        for stage, _ in stages.updated or ():
            self._copy_in(stage)
            for (number,) in self._session.run(
                statements.missing_keys(stages.plan.table, stage.name)
            ):
                reason = "an update without all values, and the row is not here"
                faults[number] = Fault(LetterClass.MISSING_ROW, reason)

    def _take_away(self, stages: _TableStages, left: list[tuple[int, int]]) -> None:
        table = stages.plan.table
        if stages.gone is not None and stages.plan.gone is not None:
            self._session.run(statements.delete_rows(table, stages.gone.name))
            self._session.run(statements.drop(stages.gone.name))
            self._put_back(stages, stages.plan.gone.staged, left)
        if stages.deleted is not None:
            self._copy_in(stages.deleted)
            self._session.run(statements.delete_keys(table, stages.deleted.name))
            self._session.run(statements.drop(stages.deleted.name))

    def _put_back(self, stages: _TableStages, gone: Staged, left: list[tuple[int, int]]) -> None:
        """Rows are their values and nothing else: an equal one is as good."""
        places = [at for at, count in left for _ in range(count)]
        if not places:
            return
        if stages.inserted is None:
            stages.inserted = _new_stage(stages.plan.table, "inserted", gone.columns)
        rows = staged_table(gone.columns, gone.rows.take(places), places)
        self._attempt.put_rows(stages.inserted.files, rows)

    def _add(self, stages: _TableStages) -> None:
        table = stages.plan.table
        if stages.inserted is not None:
            self._add_rows(table, stages.inserted)
        if stages.merged is not None:
            self._copy_in(stages.merged)
            self._session.run(statements.merge(table, stages.merged.name))
            self._session.run(statements.drop(stages.merged.name))
        for stage, staged in stages.updated or ():
            columns = _stored(staged.columns)
            self._session.run(statements.update(table, stage.name, columns))
            self._session.run(statements.drop(stage.name))

    def _add_rows(self, table: Table, stage: _Stage) -> None:
        self._copy_in(stage)
        self._session.run(statements.insert(table, stage.name))
        self._session.run(statements.drop(stage.name))

    def _copy_in(self, stage: _Stage) -> None:
        manifest_url = self._attempt.put_manifest(stage.files)
        self._session.run(stage.create)
        self._session.run(statements.copy(stage.name, manifest_url, self._iam_role))


def _new_stage(
    table: Table, purpose: str, columns: Sequence[Column], *, with_copies: bool = False
) -> _Stage:
    name = f"stage_{purpose}_{table.name}"
    key = ddl.distribution_key(table)
    create = ddl.create_stage(name, _stored(columns), distributed_by=key, with_copies=with_copies)
    return _Stage(create, StagedFiles(name))


def _stored(columns: Sequence[Column]) -> tuple[Stored, ...]:
    return tuple(stored for column in columns for stored in stored_as(column))
