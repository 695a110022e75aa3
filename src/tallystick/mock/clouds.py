"""Clouds that pass on a provider's wire under URLs of their own, and bill for it themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.mock.books import REGIONAL_FACTOR

_BEDROCK_ID = re.compile(r"(?:[a-z-]+\.)?anthropic\.(?P<model>.+?)-v\d+:\d+")
DEPLOYMENT_SEPARATOR = "--"
"""A deployment of Azure has a name of its own; here it ends in its model: ``parcels--gpt-4o-mini``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """One URL of a cloud: which wire it passes on, and who bills."""

    biller: str
    provider: str
    path: str
    wire: str | None = None
    """The path of the wire in its own house; None when the URL says it."""
    stream: bool | None = None
    """Whether the URL asks for a stream; None when the body does."""

    def given(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        """Return what the URL says of the request."""
        said: dict[str, Any] = {} if self.stream is None else {"stream": self.stream}
        if "model" in parameters:
            said["model"] = model_of(parameters["model"])
        return said


_VERTEX = "/vertex/v1/projects/{project}/locations/{region}/publishers/anthropic/models/{model}"
CLOUDS = (
    Cloud(
        biller="azure.ai.openai",
        provider="openai",
        path="/azure/openai/deployments/{model}/{path:path}",
    ),
    Cloud(
        biller="aws.bedrock",
        provider="anthropic",
        path="/bedrock/model/{model}/invoke",
        wire="/v1/messages",
        stream=False,
    ),
    Cloud(
        biller="aws.bedrock",
        provider="anthropic",
        path="/bedrock/model/{model}/invoke-with-response-stream",
        wire="/v1/messages",
        stream=True,
    ),
    Cloud(
        biller="gcp.vertex_ai",
        provider="anthropic",
        path=f"{_VERTEX}:rawPredict",
        wire="/v1/messages",
        stream=False,
    ),
    Cloud(
        biller="gcp.vertex_ai",
        provider="anthropic",
        path=f"{_VERTEX}:streamRawPredict",
        wire="/v1/messages",
        stream=True,
    ),
    Cloud(biller="azure.ai.inference", provider="anthropic", path="/foundry/v1/messages", wire="/v1/messages"),
)
PLACES = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "vertex": "gcp.vertex_ai",
    "foundry": "azure.ai.inference",
}
"""The first part of the path, and who bills below it."""


def model_of(name: str) -> str:
    """Return the model behind a cloud's name for it."""
    if found := _BEDROCK_ID.fullmatch(name):
        return found["model"]
    return name.rpartition(DEPLOYMENT_SEPARATOR)[2].replace("@", "-")


def factor_of(biller: str | None, parameters: Mapping[str, str]) -> str:
    """Return what the place of an endpoint multiplies the rates with: Claude 4.5 and later cost more in a region."""
    if biller == "aws.bedrock":
        return "1" if parameters["model"].startswith("global.") else REGIONAL_FACTOR
    if biller == "gcp.vertex_ai":
        return "1" if parameters["region"] == "global" else REGIONAL_FACTOR
    return "1"
