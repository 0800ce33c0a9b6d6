import pytest

from stages.common.errors import UserError
from stages.prompts.labels import check_labels


def test_ordinary_labels_pass():
    check_labels([
        "Watching video", "Watching video clip", "Café, bar", "Reading (\"news\"), 'late'", "A/B & C: 50 %", "看电影",
        "Ходьба", "مشاهدة", "🚕 taxi", "<angle>", "|", "{candidates}", " leading",
    ], ["<|im_end|>", "</s>", ""])


@pytest.mark.parametrize(("label", "says"), [
    ("", "a behaviour's name is empty"),
    ("  ", "a behaviour's name is empty"),
    ("two\nlines", r"'two\\nlines': has the control character '\\n'"),
    ("a\ttab", r"'a\\ttab': has the control character '\\t'"),
    ("nul\0", r"has the control character '\\x00'"),
    ("next\x85line", r"has the control character '\\x85'"),
    ("line\u2028separator", r"'line\\u2028separator': has the control character"),
    ("paragraph\u2029separator", r"has the control character"),
    ("ends <|im_end|> here", r"'ends <\|im_end\|> here': holds '<\|im_end\|>', a control token of the model"),
    ("video", "'Video' and 'video' differ in case only"),
    ("STRASSE", "'Straße' and 'STRASSE' differ in case only"),
])
def test_a_label_that_no_prompt_can_hold_is_refused_by_name(label, says):
    with pytest.raises(UserError, match=says):
        check_labels(["Video", "Straße", label], ["<|im_start|>", "<|im_end|>"])


def test_a_control_token_of_another_model_is_ordinary_text():
    check_labels(["ends <|im_end|> here"], ["</s>"])
