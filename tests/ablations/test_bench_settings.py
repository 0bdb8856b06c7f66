"""The speed that is measured is that of the protocols. `nin` must not know them, so it has their values again."""

import pytest

from ablations.protocols import PROTOCOLS
from nin.bench import SETTINGS, Setting


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_the_protocol_of_its_name(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert SETTINGS[name] == Setting(protocol.model, protocol.data, protocol.train)
