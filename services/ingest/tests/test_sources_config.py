"""Sources are off unless they are configured, and what they rely on cannot be taken from them."""

import pytest
from pydantic import SecretStr, ValidationError

from atlas_ingest.config import Config, KafkaConfig


def kafka(**settings: str) -> KafkaConfig:
    return KafkaConfig(
        bootstrap_servers="broker:9092",
        topic="writes",
        settings={name: SecretStr(value) for name, value in settings.items()},
    )


def test_no_source_is_read_unless_it_is_named() -> None:
    assert Config.model_fields["kafka"].default is None
    assert Config.model_fields["sqs"].default is None


@pytest.mark.parametrize(
    "name", ["enable.auto.commit", "auto.offset.reset", "group.id", "partition.assignment.strategy"]
)
def test_settings_that_the_source_relies_on_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name} cannot be set"):
        kafka(**{name: "x"})


def test_passwords_among_the_settings_are_not_shown() -> None:
    config = kafka(**{"sasl.password": "very secret"})
    assert "very secret" not in config.model_dump_json() + repr(config)
    assert config.settings["sasl.password"].get_secret_value() == "very secret"
