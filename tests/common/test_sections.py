import pytest
from pydantic import model_validator

from stages.common.params import checked, read_yaml
from stages.common.errors import UserError
from stages.common.params import Positive, Section


class Inner(Section):
    least: Positive
    most: Positive

    @model_validator(mode="after")
    def _in_order(self):
        if self.least > self.most:
            raise ValueError(f"least {self.least} is above most {self.most}")
        return self


class Outer(Section):
    parts: dict[str, Inner]


def test_numbers_are_read_as_yaml_1_2_has_them(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("rate: 5e-5\nother: 2e-05\nname: яблоко\n", encoding="utf-8")
    assert read_yaml(path) == {"rate": 5e-5, "other": 2e-5, "name": "яблоко"}


@pytest.mark.parametrize(("content", "said"), [
    (None, "no such file; run from the repository's root"), (b"a: [1", "not valid YAML: "),
    (b"a: \xff", "not valid YAML: "),
])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, said):
    path = tmp_path / "file.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert str(error.value).startswith(f"{path}: {said}")


def test_all_faults_are_named_by_their_keys(tmp_path):
    good, path = {"least": 1, "most": 2}, tmp_path / "file.yaml"
    assert checked({"parts": {"a": good}}, Outer, path).parts["a"].most == 2
    with pytest.raises(UserError) as error:
        checked({"parts": {"a": {"least": 3, "most": 2}, "b": {"least": 0}}}, Outer, path, "section")
    lines = str(error.value).split("\n")
    assert lines[0] == f"{path}: section.parts.a: least 3 is above most 2"
    assert [line.split(": ")[0] for line in lines[1:]] == ["section.parts.b.least", "section.parts.b.most"]
