"""`scratchgpt web`: all of this in a browser."""

import webbrowser

import click

from scratchgpt.errors import UsageError

PORT = 8070


@click.command("web", short_help="Open a page: prepare, train, watch, generate.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Another than this machine's own needs a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0: any that is free.")
@click.option(
    "--token",
    envvar="SCRATCHGPT_TOKEN",
    show_envvar=True,
    help="What clients must give as their API key. Other users of this machine can see options.",
)
@click.option("--open/--no-open", "is_opened", default=True, help="Whether to open the page in a browser.")
def command(*, host: str, port: int, token: str | None, is_opened: bool) -> None:
    """Serve a page for the current folder: its texts, data/ and runs/.

    Trainings are started as processes of their own. They go on when the page is closed; when this command ends, they
    save and end.
    """
    try:
        from scratchgpt.serving import listening
        from scratchgpt.web.app import build
        from scratchgpt.web.desk import Desk
    except ImportError as error:
        raise UsageError(f"The page needs another package ({error}): pip install 'scratchgpt[web]'.") from error
    listening.require_token(host, token)
    with listening.listen(host, port) as listener:
        address = listening.address(listener) + (f"/?token={token}" if token else "/")
        application = build(Desk(), host=host, token=token)
        click.echo(f"{address} is the page; Ctrl-C ends it.")
        if is_opened:
            webbrowser.open(address)
        listening.run(application, listener)
