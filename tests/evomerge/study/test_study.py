import pytest

from evomerge.study import Study
from tests.contracts.study import StudyContract


class TestStudy(StudyContract):
    @pytest.fixture
    def study_type(self) -> type[Study]:
        return Study
