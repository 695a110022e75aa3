"""An honest stand-in for Anthropic and OpenAI on loopback: their wire formats, their faults, its own invoice."""

from __future__ import annotations

GREETING = """\
tallystick mock is listening on {url}

  anthropic   ANTHROPIC_BASE_URL={anthropic_url}   ANTHROPIC_API_KEY=any
  openai      OPENAI_BASE_URL={openai_url}   OPENAI_API_KEY=any
  your app    TALLYSTICK_PROVIDERS={place}/anthropic=anthropic,{place}/openai=openai

  faults      header  x-mock-script: 429:retry-after=0.05,200   (one step per request; GET / lists them)
  invoice     curl {url}/_mock/invoice
  requests    curl {url}/_mock/requests

Ctrl-C ends it."""


def run(port: int) -> int:
    """Serve on 127.0.0.1:``port`` until Ctrl-C; 0 takes a free port."""
    from tallystick.mock.serve import HOST, MockServer

    server = MockServer(port)
    place = f"{HOST}:{server.port}"
    print(  # noqa: T201 -- the CLI's own voice
        GREETING.format(url=server.url, anthropic_url=server.anthropic_url, openai_url=server.openai_url, place=place),
        flush=True,
    )
    server.run()
    return 0
