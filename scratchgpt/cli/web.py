"""`scratchgpt web`: all of this in a browser."""

import webbrowser

import click

from scratchgpt.cli import say
from scratchgpt.extras import imports

PORT = 8070


@click.command("web", short_help="Open a page: prepare, train, watch, generate.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address; any but loopback needs a token.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0: any that is free.")
@click.option(
    "--token",
    envvar="SCRATCHGPT_TOKEN",
    show_envvar=True,
    help="What the page asks for: 16 characters or more. Other users of this machine can see options.",
)
@click.option("--open/--no-open", "is_opened", default=True, help="Whether to open the page in a browser.")
def command(*, host: str, port: int, token: str | None, is_opened: bool) -> None:
    """Serve a page for the current folder: its texts, data/ and runs/.

    Trainings are started as processes of their own. They go on when the page is closed; when this command ends, they
    save and end.
    """
    with imports("The page", "web"):
        from scratchgpt.serving import listening, server
        from scratchgpt.serving.tokens import Login
        from scratchgpt.web.app import build
        from scratchgpt.web.desk import Desk
    host = host.strip("[]")  # as addresses of IPv6 are written in URLs
    listening.require_token(host, token)
    with listening.listen(host, port) as listener:
        login = None if token is None else Login(token, listener.getsockname()[1])
        desk = Desk()
        application = build(desk, host=host, login=login)
        address = f"{listening.address(listener)}/"
        say(f"{address} is the page{', which asks for the token' if login else ''}; Ctrl-C ends it.")
        if is_opened:
            webbrowser.open(f"{address}?ticket={login.ticket()}" if login else address)
        server.run(application, listener, is_saving=lambda: desk.is_saving)
