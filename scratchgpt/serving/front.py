"""The page at /: what this server is, which model it has, and how to call it. It has no scripts."""

import json
import shlex
from html import escape

from scratchgpt import __version__
from scratchgpt.serving.schemas import Model

LONGEST_ADDRESS = 300
"""Characters of the address that the page repeats; it is a header of the request."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{name} - scratchgpt</title>
</head>
<body>
<h1>{name}</h1>
<p>scratchgpt {version} serves this model through OpenAI's completions API. It continues texts; it does not chat.</p>
<ul>
<li>{n_params:,} parameters, {n_layer} layers, {n_head} heads, {n_embd} channels</li>
<li>{n_vocab:,} tokens in the vocabulary</li>
<li>a context of {n_ctx_train:,} tokens</li>
</ul>
<h2>curl</h2>
<pre>curl {address}/v1/completions \\
    -H "Content-Type: application/json" \\
    -d {body}</pre>
<h2>Python</h2>
<pre>from openai import OpenAI  # pip install openai

client = OpenAI(base_url="{address}/v1", api_key="none")
answer = client.completions.create(model={quoted}, prompt="To be", max_tokens=100)
print(answer.choices[0].text)</pre>
<p>If the server has a token, it is the API key; with curl, add <code>-H "Authorization: Bearer TOKEN"</code>.</p>
<h2>More</h2>
<ul>
<li><a href="/v1/models">/v1/models</a>: the model and its sizes</li>
<li><a href="/tokenizer_info">/tokenizer_info</a>: the vocabulary; POST /tokenize and /detokenize use it</li>
<li><a href="/metrics">/metrics</a>: requests, tokens, queue, batch size and latency, for Prometheus</li>
<li><a href="/health">/health</a>: whether the server answers</li>
<li><a href="/openapi.json">/openapi.json</a>: all paths and fields, for programs</li>
</ul>
</body>
</html>
"""


def page(model: Model, address: str) -> str:
    """Return the page's HTML, for a server that its reader reaches at this address."""
    body = json.dumps({"model": model.id, "prompt": "To be", "max_tokens": 100})
    return PAGE.format(
        version=__version__,
        name=escape(model.id),
        quoted=escape(json.dumps(model.id)),
        body=escape(shlex.quote(body)),
        address=escape(address[:LONGEST_ADDRESS]),
        **model.meta.model_dump(),
    )
