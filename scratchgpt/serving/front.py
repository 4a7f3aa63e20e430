"""The page at /: what this server is, which model it has, and how to call it. It has no scripts."""

import json
import shlex
from html import escape

from scratchgpt import __version__
from scratchgpt.serving.answers import html_page
from scratchgpt.serving.schemas import Model

LONGEST_ADDRESS = 300
"""Characters of the address that the page repeats; it is a header of the request."""

BODY = """<p>scratchgpt {version} serves this model through OpenAI's completions API. It continues texts;
it does not chat.</p>
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
</ul>"""


def page(model: Model, address: str) -> bytes:
    """Return the page's HTML, for a server that its reader reaches at this address."""
    body = json.dumps({"model": model.id, "prompt": "To be", "max_tokens": 100})
    content = BODY.format(
        version=__version__,
        quoted=escape(json.dumps(model.id)),
        body=escape(shlex.quote(body)),
        address=escape(address[:LONGEST_ADDRESS]),
        **model.meta.model_dump(),
    )
    return html_page(f"{model.id} - scratchgpt", content)
