"""`hack/image [NAME…]`: make images (those of `hack/cluster` without a name), and say where they are."""

from __future__ import annotations

import click

from hack.images.catalog import IMAGES, KIND_IMAGES, build
from hack.node.layout import Layout


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(IMAGES | KIND_IMAGES)))
def main(names: tuple[str, ...]) -> None:
    """Make container images without Docker; only what changed is made again."""
    layout = Layout.of_environment()
    for name in names or IMAGES:
        built = build(name, layout)
        click.echo(f"{built.name}\n  {built.digest}  {built.size / 1e6:.0f} MB\n  {built.archive}")


if __name__ == "__main__":
    main(prog_name="hack/image")
