"""`scratchgpt serve`: a trained model behind HTTP, for OpenAI's clients."""

from pathlib import Path

import click

from scratchgpt.cli import say
from scratchgpt.cli.options import device_option, resolved
from scratchgpt.extras import imports
from scratchgpt.wording import shown


@click.command("serve", short_help="Answer OpenAI's clients with a trained model.")
@click.argument("model", required=False, metavar="[RUN]", type=click.Path(path_type=Path))
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address; any but loopback needs a token.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@click.option(
    "--token",
    envvar="SCRATCHGPT_TOKEN",
    show_envvar=True,
    help="What clients must give as their API key: 16 characters or more. Other users of this machine can see options.",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    help="A site whose pages may use the server, as http://localhost:3000. Repeatable.",
)
@click.option(
    "--batch", type=click.IntRange(1, 1024), default=16, show_default=True, help="Texts that are made together."
)
@click.option("--queue", type=click.IntRange(1, 2**20), default=256, show_default=True, help="Texts that may wait.")
@click.option(
    "--max-prompt", type=click.IntRange(min=1), default=16_384, show_default=True, help="Tokens that a prompt may have."
)
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=4096, show_default=True, help="Tokens that a text may get."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=120,
    show_default=True,
    help="Seconds that a text may take, waiting included.",
)
@device_option
def command(
    *,
    model: Path | None,
    host: str,
    port: int,
    token: str | None,
    origins: tuple[str, ...],
    batch: int,
    queue: int,
    max_prompt: int,
    max_tokens: int,
    timeout: float,
    device: str | None,
) -> None:
    """Serve the model of RUN (a run, a checkpoint or a folder of one), by default the newest in runs/.

    \b
    from openai import OpenAI
    client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
    client.completions.create(model="NAME", prompt="To be", max_tokens=100)
    """  # noqa: D301 - \b is click's mark for lines that are not to be wrapped
    with imports("Serving", "web"):
        from scratchgpt.serving import listening, server
        from scratchgpt.serving.app import guarded
        from scratchgpt.serving.completions import Limits
        from scratchgpt.serving.origins import allowed_origin
        from scratchgpt.serving.tokens import Login
    from scratchgpt import backend
    from scratchgpt.model.folder import end_tokens
    from scratchgpt.model.gpt import GPT
    from scratchgpt.serving.engine import Engine
    from scratchgpt.training import checkpoint
    from scratchgpt.training.locate import locate

    host = host.strip("[]")  # as addresses of IPv6 are written in URLs
    listening.require_token(host, token)
    login = None if token is None else Login(token)
    allowed = [allowed_origin(origin) for origin in origins]
    folder = locate(model)
    name = _name(folder, is_run=model is None or folder != model)
    place = backend.select(resolved(device or "auto"))  # before the model, which may take a while to read
    config, params, vocabulary = checkpoint.read_model(folder)  # a copy: the file may change while we serve
    ends = end_tokens(folder, config.vocab_size)
    gpt = GPT(config, place, params)
    listener = listening.listen(host, port)
    engine = Engine(gpt, vocabulary, n_places=batch, n_waiting=queue, ends=ends)
    limits = Limits(prompt_tokens=max_prompt, max_tokens=max_tokens, seconds=timeout)
    say(f"Serving {name} at {listening.address(listener)}/v1; Ctrl-C ends it.")
    server.run(guarded(engine, name, limits, host=host, login=login, origins=allowed), listener, engine.close)


def _name(folder: Path, *, is_run: bool) -> str:
    """Return what clients call a model: its run, with the step if a certain checkpoint was named."""
    folder = folder.resolve()
    if folder.parent.name != "checkpoints":
        return shown(folder.name)
    run = shown(folder.parent.parent.name)
    return run if is_run else f"{run}-{folder.name}"
