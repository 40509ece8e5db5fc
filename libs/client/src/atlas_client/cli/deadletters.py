"""atlas deadletters list, replay, discard, actions, books."""

import getpass
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from atlas_client.cli import exits
from atlas_client.cli.connection import Context, connected
from atlas_client.cli.output import note, print_json, print_table
from atlas_client.letters import DeadLetter, LetterClass

app = typer.Typer()
_group = typer.Typer(
    help="Changes that could not be applied to the warehouse: what, why, again, or never.",
    no_args_is_help=True,
    epilog=exits.EPILOG,
)
app.add_typer(_group, name="deadletters")

IdsArgument = Annotated[
    list[int] | None, typer.Argument(metavar="[ID...]", help="Only these; default: all.")
]
TenantOption = Annotated[str, typer.Option("--tenant", "-t", help="Only this tenant's.")]
TableOption = Annotated[str, typer.Option("--table", help="Only changes of this table.")]
ClassOption = Annotated[LetterClass | None, typer.Option("--class", help="Only of this class.")]
ReasonOption = Annotated[
    str, typer.Option("--reason-like", help="Only those whose reason has this in it.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
]


@_group.command("list", epilog=exits.EPILOG)
@connected(tenant=False)
async def list_letters(
    context: Context,
    ids: IdsArgument = None,
    *,
    tenant: TenantOption = "",
    table: TableOption = "",
    letter_class: ClassOption = None,
    reason: ReasonOption = "",
    raw: Annotated[
        bool, typer.Option("--raw", help="Also the very bytes that came, in hexadecimal.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Of the list.")] = 50,
) -> int:
    """List dead letters, the oldest first.

    Example: atlas deadletters list --tenant acme --class value

    Example: atlas deadletters list 17 --raw --json
    """
    found: list[DeadLetter] = []
    letters = context.client.dead_letters.letters(
        **_matching(ids, tenant, table, letter_class, reason), with_raw=raw
    )
    async for letter in letters:
        found.append(letter)
        if len(found) == limit:
            break
    if context.as_json:
        print_json(found)
        return exits.OK
    _show(found)
    for letter in found if raw else ():
        typer.echo(f"{letter.letter_id} {letter.codec} {letter.raw.hex()}")
    return exits.OK


@_group.command(epilog=exits.EPILOG)
@connected(tenant=False)
async def replay(
    context: Context,
    ids: IdsArgument = None,
    *,
    tenant: TenantOption = "",
    table: TableOption = "",
    letter_class: ClassOption = None,
    reason: ReasonOption = "",
    adopt_schema: Annotated[
        bool,
        typer.Option(
            "--adopt-schema",
            help="First let the warehouse take over the types that columns have at the source.",
        ),
    ] = False,
    dry_run: DryRunOption = False,
) -> int:
    """Apply letters and all that waits behind them, in order. Exit code 1: some still cannot be.

    Example: atlas deadletters replay --table attributes --dry-run

    Example: atlas deadletters replay 17 18
    """
    result = await context.client.dead_letters.replay(
        **_matching(ids, tenant, table, letter_class, reason),
        adopt_schema=adopt_schema,
        dry_run=dry_run,
        operator=_operator(),
    )
    if context.as_json:
        print_json(result)
    else:
        if result.failures:
            _show(result.failures)
        note(
            f"{'would apply' if dry_run else 'applied'} {result.applied_count:,} of"
            f" {result.letter_count:,} letters; {result.failed_count:,} cannot be applied,"
            f" {result.waiting_count:,} wait behind them"
        )
    return exits.REFUSED if result.failed_count or result.waiting_count else exits.OK


@_group.command(epilog=exits.EPILOG)
@connected(tenant=False)
async def discard(
    context: Context,
    ids: IdsArgument = None,
    *,
    why: Annotated[str, typer.Option("--reason", help="Why, for the audit. Required.")],
    tenant: TenantOption = "",
    table: TableOption = "",
    letter_class: ClassOption = None,
    reason: ReasonOption = "",
    dry_run: DryRunOption = False,
) -> int:
    """Give letters up for good; what waits behind them goes on waiting until it is replayed.

    Example: atlas deadletters discard 17 --reason "a test device, asset team knows"

    Example: atlas deadletters discard --tenant acme --class value --reason "..." --dry-run
    """
    matching = _matching(ids, tenant, table, letter_class, reason)
    count = await context.client.dead_letters.discard(
        why, **matching, dry_run=dry_run, operator=_operator()
    )
    if context.as_json:
        print_json({"discarded_count": count, "dry_run": dry_run})
    else:
        note(f"{'would discard' if dry_run else 'discarded'} {count:,} letters")
    return exits.OK


@_group.command(epilog=exits.EPILOG)
@connected(tenant=False)
async def actions(
    context: Context,
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Of the list.")] = 50,
) -> int:
    """Show who replayed and discarded what, the newest first.

    Example: atlas deadletters actions --limit 5
    """
    found = []
    async for action in context.client.dead_letters.actions():
        found.append(action)
        if len(found) == limit:
            break
    if context.as_json:
        print_json(found)
    else:
        print_table(
            ("action", "time", "kind", "by", "from", "filter", "reason", "done", "failed"),
            [
                (
                    one.action_id,
                    one.act_time,
                    one.kind,
                    one.operator,
                    one.peer,
                    one.filter,
                    one.reason,
                    one.done_count,
                    one.failed_count,
                )
                for one in found
            ],
        )
    return exits.OK


@_group.command(epilog=exits.EPILOG)
@connected(tenant=False)
async def books(context: Context) -> int:
    """Show what became of all changes: read = applied + dead + skipped. Exit code 1: it does not.

    Example: atlas deadletters books --json
    """
    report = await context.client.dead_letters.books()
    if context.as_json:
        print_json({"balance": report.balance, "report": report})
    else:
        print_table(
            ("table", "tenant", "read", "applied", "dead", "skipped", "balance"),
            [
                (
                    each.table,
                    each.tenant,
                    each.read_count,
                    each.applied_count,
                    each.dead_lettered_count,
                    each.skipped_count,
                    each.balance,
                )
                for each in report.books
            ],
        )
        for discrepancy in report.discrepancies:
            note(f"audit: {discrepancy}")
    return exits.OK if report.balance else exits.REFUSED


def _matching(
    ids: Sequence[int] | None,
    tenant: str,
    table: str,
    letter_class: LetterClass | None,
    reason: str,
) -> dict[str, Any]:
    if letter_class is LetterClass.UNKNOWN:
        raise exits.fail("--class: letters cannot be filtered by this one", exits.USAGE)
    return {
        "letter_ids": ids or (),
        "tenant": tenant,
        "table": table,
        "letter_class": letter_class,
        "reason": reason,
    }


def _operator() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # A container's user without a name.
        return ""


def _show(letters: Sequence[DeadLetter]) -> None:
    print_table(
        ("letter", "class", "table", "kind", "tenant", "row", "behind", "tries", "since", "reason"),
        [
            (
                letter.letter_id,
                letter.letter_class,
                letter.table,
                letter.kind,
                letter.tenant,
                " ".join(letter.row_keys),
                letter.chain_id if letter.chain_id != letter.letter_id else "",
                letter.attempts,
                letter.first_attempt_time,
                letter.reason,
            )
            for letter in letters
        ],
    )
