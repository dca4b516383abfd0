"""The miniature Athena download and hospital of the representation stages, which ask the service."""

from ...representation.conftest import athena, small_root  # noqa: F401 fixtures
