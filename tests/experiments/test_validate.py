"""What a protocol names has to be there."""

from __future__ import annotations

import pytest

from threeregime.data.registry import DATASETS
from threeregime.data.translation import TRANSLATIONS
from threeregime.errors import ThreeRegimeError
from threeregime.experiments.validate import validate
from threeregime.protocol import Protocol


@pytest.mark.parametrize(
    ("section", "field", "value", "allowed"),
    [
        ("data", "name", "mnist", f"one of {', '.join([*DATASETS, *TRANSLATIONS])} or folder:PATH"),
        ("net", "name", "resnet", "one of preresnet, densenet, vgg"),
        ("net", "depth", 21, "6n+2"),
        ("net", "depth", 2, "6n+2"),
        ("pruning", "method", "random", "uniform, global"),
    ],
)
def test_a_refusal_names_field_value_and_what_is_allowed(
    section: str, field: str, value: object, allowed: str
) -> None:
    protocol = Protocol.from_dict({section: {field: value}})  # of the right type and range
    with pytest.raises(ThreeRegimeError) as caught:
        validate(protocol)
    message = str(caught.value)
    assert message.startswith(f"{section}.{field} = {value!r} is not allowed: ")
    assert allowed in message


def test_what_is_there_passes() -> None:
    for name in (*DATASETS, *TRANSLATIONS, "folder:pictures"):
        protocol = Protocol().replace("data.name", name)
        assert validate(protocol) is protocol
