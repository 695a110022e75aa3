import pytest

from tallystick.model.providers import BY_HOST, provider_of


@pytest.mark.parametrize(
    ("base_url", "provider"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://API.OpenAI.com/v1/", "openai"),
        ("https://eu.api.openai.com/v1", "openai"),
        ("https://api.anthropic.com", "anthropic"),
        ("https://my-team.openai.azure.com/openai/deployments/x", "azure.ai.openai"),
        ("https://x.cognitiveservices.azure.com", "azure.ai.openai"),
        ("https://x.services.ai.azure.com/anthropic/", "azure.ai.inference"),
        ("https://bedrock-runtime.us-east-1.amazonaws.com", "aws.bedrock"),
        ("https://bedrock-runtime-fips.us-gov-west-1.amazonaws.com", "aws.bedrock"),
        ("https://bedrock-runtime.cn-north-1.amazonaws.com.cn/openai/v1", "aws.bedrock"),
        ("https://vpce-0a1b-xyz.bedrock-runtime.us-east-1.vpce.amazonaws.com", "aws.bedrock"),
        ("https://bedrock-mantle.us-east-1.api.aws/anthropic", "aws.bedrock"),
        ("https://us-central1-aiplatform.googleapis.com/v1", "gcp.vertex_ai"),
        ("https://aiplatform.googleapis.com/v1", "gcp.vertex_ai"),
        ("https://aiplatform.eu.rep.googleapis.com/v1", "gcp.vertex_ai"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "gcp.gemini"),
        ("https://openrouter.ai/api/v1", "openrouter"),
    ],
)
def test_the_host_tells_who_bills(base_url: str, provider: str) -> None:
    assert provider_of(base_url) == provider


@pytest.mark.parametrize("host", BY_HOST)
def test_every_listed_host_is_found_with_and_without_a_port(host: str) -> None:
    assert provider_of(f"https://{host}/v1") == provider_of(f"https://{host}:443/v1") == BY_HOST[host]


@pytest.mark.parametrize(
    ("base_url", "shown"),
    [
        pytest.param("http://127.0.0.1:8000/v1", "127.0.0.1:8000", id="loopback"),
        pytest.param("http://[::1]:8000/v1", "[::1]:8000", id="loopback-6"),
        pytest.param("https://LLM.corp.example/openai", "llm.corp.example", id="gateway"),
        pytest.param("https://user:secret@llm.corp.example/", "llm.corp.example", id="password-is-not-shown"),
        pytest.param("https://api.openai.com.evil.example/v1", "api.openai.com.evil.example", id="ends-otherwise"),
        pytest.param("https://notapi.openai.com/v1", "notapi.openai.com", id="begins-otherwise"),
        pytest.param("https://lb-1.us-east-1.elb.amazonaws.com/v1", "lb-1.us-east-1.elb.amazonaws.com", id="own-aws"),
        pytest.param("https://bedrock-x.eu.elb.amazonaws.com", "bedrock-x.eu.elb.amazonaws.com", id="own-bedrock"),
        pytest.param("", "unknown", id="nothing"),
        pytest.param("not a url", "unknown", id="no-url"),
    ],
)
def test_a_host_that_nobody_lists_is_its_own_name(base_url: str, shown: str) -> None:
    assert provider_of(base_url) == shown


GATEWAY = "https://gateway.example:8443/anthropic/v1"


@pytest.mark.parametrize(
    ("mapped", "provider"),
    [
        pytest.param({"gateway.example": "openai"}, "openai", id="host"),
        pytest.param({"Gateway.Example": "openai"}, "openai", id="host-in-capitals"),
        pytest.param({"gateway.example:8443": "openai"}, "openai", id="host-and-port"),
        pytest.param({"gateway.example:9": "openai"}, "gateway.example:8443", id="another-port"),
        pytest.param({"gateway.example/anthropic": "anthropic"}, "anthropic", id="host-and-path-without-the-port"),
        pytest.param({"gateway.example/anthropic/": "anthropic"}, "anthropic", id="path-with-a-slash"),
        pytest.param({"gateway.example:8443/anthropic/v1": "anthropic"}, "anthropic", id="the-whole"),
        pytest.param({"gateway.example/anthropic/v1/": "anthropic"}, "anthropic", id="the-whole-with-a-slash"),
        pytest.param({"gateway.example/anth": "anthropic"}, "gateway.example:8443", id="half-a-word-is-no-path"),
        pytest.param({"gateway": "openai"}, "gateway.example:8443", id="half-a-host"),
        pytest.param(
            {"gateway.example": "openai", "gateway.example/anthropic": "anthropic"}, "anthropic", id="longest"
        ),
        pytest.param({}, "gateway.example:8443", id="nothing-mapped"),
    ],
)
def test_a_gateway_bills_as_the_user_mapped_it(mapped: dict[str, str], provider: str) -> None:
    assert provider_of(GATEWAY, mapped) == provider


def test_the_users_word_wins_over_the_list() -> None:
    assert provider_of("https://api.openai.com/v1", {"api.openai.com": "mine"}) == "mine"
