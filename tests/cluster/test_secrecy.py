"""No secret travels: not in configs, not in variables, whatever the machine that submits holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.secrecy import COPIED, copied, credentials_needed, names_a_secret, refuse_secret, refuse_secrets
from configs import UserError, load_config

SECRETS = ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD"]
SECRETS += ["MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "RAY_AUTH_TOKEN", "WANDB_API_KEY", "OPENAI_APIKEY", "GITHUB_PAT"]
SECRETS += ["DB_PWD", "SSH_PRIVATE_KEY", "SERVICE_CREDENTIALS", "my_secret", "PASSWORD"]
HARMLESS = ["PATH", "PWD", "HOME", "AWS_ENDPOINT_URL", "AWS_REGION", "NCCL_DEBUG", "TOKENIZERS_PARALLELISM", "KEYMAP"]
HARMLESS += ["RAY_AUTH_TOKEN_PATH", "AWS_WEB_IDENTITY_TOKEN_FILE", "PATTERN", "OLDPWD", "SSH_AUTH_SOCK"]


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_known_by_their_names(name: str) -> None:
    assert names_a_secret(name)


@pytest.mark.parametrize("name", HARMLESS)
def test_where_things_are_is_no_secret(name: str) -> None:
    assert not names_a_secret(name)


def test_only_named_variables_are_taken_along() -> None:
    held = {name: "hunter2hunter2" for name in SECRETS} | {"AWS_REGION": "eu-1", "NCCL_DEBUG": "", "HOME": "/root"}
    assert copied(held) == {"AWS_REGION": "eu-1"}
    assert not any(names_a_secret(name) for name in COPIED)


@given(
    st.dictionaries(st.sampled_from([*SECRETS, *COPIED, *HARMLESS]), st.from_regex(r"[a-z0-9]{8,20}", fullmatch=True))
)
def test_whatever_is_held_no_secret_is_taken_along(held: dict[str, str]) -> None:
    secrets = {value for name, value in held.items() if name in SECRETS}
    try:
        taken = copied(held)
    except UserError:
        return
    assert not any(secret in value for secret in secrets for value in taken.values())


BAD_URLS = [
    "http://user:hunter2@mlflow:5000",
    "s3://key:hunter2@bucket/x",
    "https://hunter2@host/x",
    "https://b.s3.amazonaws.com/x?X-Amz-Signature=hunter2",
    "https://account.blob.core.windows.net/x?sv=1&sig=hunter2",
    "https://host/x?token=hunter2",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_an_address_with_a_credential_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(UserError) as error:
        refuse_secret("tracking.uri", url, {})
    assert "tracking.uri" in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "key", ["tracking.uri", "data.train", "checkpoint.url", "run.start_from", "tracking.experiment"]
)
def test_a_config_that_holds_a_secrets_value_is_refused_and_names_the_setting(key: str) -> None:
    config = load_config("headsup-nano", [f"{key}=x-hunter2hunter2-y"])
    with pytest.raises(UserError, match=key) as error:
        refuse_secrets(config, {"AWS_SECRET_ACCESS_KEY": "hunter2hunter2"})
    assert "AWS_SECRET_ACCESS_KEY" in str(error.value)
    assert "hunter2" not in str(error.value)
    refuse_secrets(config, {"HOME": "hunter2hunter2"})


def test_secrets_in_a_mixture_are_found_too() -> None:
    config = load_config("headsup-nano", ["data.mixture=[{url: 's3://k:hunter2@b/x'}]"])
    with pytest.raises(UserError, match=r"data\.mixture"):
        refuse_secrets(config, {})


def test_the_cluster_is_told_which_credentials_it_needs() -> None:
    assert credentials_needed(load_config("headsup-nano")) == []
    far = load_config("headsup-nano", ["data.train=s3://b/x", "tracking.uri=http://mlflow:5000"])
    lines = credentials_needed(far)
    assert "AWS_SECRET_ACCESS_KEY" in lines[0]
    assert "MLFLOW_TRACKING_PASSWORD" in lines[1]
