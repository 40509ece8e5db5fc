"""The root command: this package's own commands and those of plug-ins."""

import logging
from importlib.metadata import EntryPoint, entry_points

import stamina.instrumentation
import typer

from atlas_client.cli import (
    deadletters,
    exits,
    freshness,
    pipeline,
    policies,
    producing,
    projecting,
    reading,
    reconciling,
    serving,
    state,
    top,
    watching,
    writing,
)
from atlas_client.cli.output import note

PLUGIN_GROUP = "atlas.commands"
"""Entry points of this group name typer apps; their commands become commands of `atlas`."""


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # Retries are ordinary; and stamina's default would write them to stdout, among our JSON.
    stamina.instrumentation.set_on_retry_hooks([])
    build()()


def build() -> typer.Typer:
    """Put the root command together."""
    app = typer.Typer(
        name="atlas",
        help="The AtlasCo Telemetry Platform. Every command has --help, most have --json.",
        epilog=exits.EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for own in (
        writing.app,
        producing.app,
        reading.app,
        watching.app,
        freshness.app,
        projecting.app,
        deadletters.app,
        pipeline.app,
        policies.app,
        reconciling.app,
        state.app,
        top.app,
        serving.app,
    ):
        _adopt(app, own)
    for entry_point in sorted(entry_points(group=PLUGIN_GROUP), key=lambda each: each.name):
        plugin = load_plugin(entry_point)
        if plugin is not None:
            _adopt(app, plugin)
    return app


def load_plugin(entry_point: EntryPoint) -> typer.Typer | None:
    """Load a plug-in; one that is broken costs its own commands and a line on stderr."""
    try:
        plugin = entry_point.load()
    except Exception as error:  # noqa: BLE001 - it is others' code: anything may come.
        note(f"atlas: plug-in {entry_point.name!r} is broken: {type(error).__name__}: {error}")
        return None
    if not isinstance(plugin, typer.Typer):
        note(f"atlas: plug-in {entry_point.name!r} is no typer app")
        return None
    return plugin


def _adopt(app: typer.Typer, other: typer.Typer) -> None:
    app.registered_commands += other.registered_commands
    app.registered_groups += other.registered_groups
