"""The README shows today's help text, and names every model and target that it talks about."""

from generator.models import specs
from tests.golden.readme import ROOT, current

README = ROOT / "README.md"


def test_help_text_is_current() -> None:
    for file, content in current().items():
        assert file.read_text() == content, f"{file.name}: run `make goldens`"


def test_every_model_is_in_the_table() -> None:
    text = README.read_text()
    for name, spec in specs().items():
        assert f"| `{name}` |" in text
        assert spec.variants[0].name in text
