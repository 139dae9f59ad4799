"""The list of the core's rules is about the core of today; see checks/core_rules.py."""

import pytest

from checks.core_rules import CORE, rules


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.says)
def test__rule__is_carried_by_code_that_stands_there_once(rule):
    code = (CORE / rule.file).read_text("utf-8")
    assert code.count(rule.code) == 1
    compile(code.replace(rule.code, rule.without), rule.file, "exec")


def test__rules__each_is_written_down_once():
    says = [rule.says for rule in rules()]
    assert len(says) == len({*says})
