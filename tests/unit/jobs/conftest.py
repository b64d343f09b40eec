"""What tests of this folder share."""

from functools import cache

import pytest

from agent.repository import format_manager, kdf


@pytest.fixture(scope="session", autouse=True)
def quick_passwords():
    """Each key is derived once in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(format_manager, "derive_password_key", cache(kdf.derive_password_key))
        yield
