"""What the tests of the deployments share."""

from __future__ import annotations

import pytest

from tests.deploy.image import Image


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """What the Dockerfile makes, without Docker."""
    return Image(tmp_path_factory.mktemp("image"))
