"""What a text LM knows before and after, of the same questions."""

import json

import pytest

from spectron.data.question_sets import Question, QuestionSet
from spectron.evaluation.suites.knowledge import difference, evaluate_knowledge
from spectron.types import UserError

SET = QuestionSet("capitals", tuple(Question(str(i), f"Capital {i}?", (f"City {i}",)) for i in range(8)))


class Knows:
    """Stands for a text LM that knows some of the capitals."""

    def __init__(self, name, known):
        self.facts = {"name": name, "version": "1", "settings": {}, "checksum": repr(known)}
        self.known, self.prompts = known, []

    def complete(self, prompts, max_tokens):
        self.prompts += prompts
        numbers = [next(int(c) for c in prompt if c.isdigit()) for prompt in prompts]
        return [f"City {i}" if i in self.known else "no idea" for i in numbers]


def test_the_difference_is_of_the_same_questions(tmp_path):
    before, after = Knows("base", {0, 1, 2, 3}), Knows("spoken", {2, 3, 4})
    results = evaluate_knowledge(before, after, [SET], tmp_path, prompt="Q: {question} A:", max_tokens=5)
    whole, change = results.tables
    assert (
        whole.rows["capitals, before"]["exact"].value == 0.5 and whole.rows["capitals, after"]["exact"].value == 3 / 8
    )
    less, still = change.rows["contains"]["after less before"], change.rows["contains"]["still right"]
    assert less.value == pytest.approx(-1 / 8) and less.low < less.value < less.high and less.n == 8
    assert (still.value, still.n) == (0.5, 4)
    assert before.prompts[0] == "Q: Capital 0? A:" and len(before.prompts) == 8
    stored = json.loads((tmp_path / "results.json").read_text())
    assert [judge["role"] for judge in stored["judges"]] == ["lm before", "lm after"]
    page = (tmp_path / "report.html").read_text()
    assert page.count('|forgotten"') == 2 and page.count('|learnt"') == 1 and "<audio" not in page
    (tmp_path / "results.json").unlink()
    again = Knows("base", {0, 1, 2, 3})
    evaluate_knowledge(again, after, [SET], tmp_path, prompt="Q: {question} A:", max_tokens=5)
    assert not again.prompts, "what was asked stays asked"
    with pytest.raises(UserError, match="another max_tokens"):
        evaluate_knowledge(before, after, [SET], tmp_path, prompt="Q: {question} A:", max_tokens=6)


def test_who_knew_nothing_has_forgotten_nothing(tmp_path):
    results = evaluate_knowledge(Knows("a", set()), Knows("b", {1}), [SET], tmp_path)
    still = results.tables[1].rows["exact"]["still right"]
    assert still.n == 0 and still.text().startswith("–")
    with pytest.raises(UserError, match="must hold"):
        evaluate_knowledge(Knows("a", set()), Knows("b", {1}), [SET], tmp_path, prompt="{}")


def test_the_difference_has_an_interval_of_its_own():
    """Worked by hand: 10 learnt, 3 forgotten of 50; (7 ± 1.96 √(14 − 49 / 52)) / 52."""
    pairs = [(False, True)] * 10 + [(True, False)] * 3 + [(True, True)] * 20 + [(False, False)] * 17
    figure = difference(pairs)
    assert (figure.value, figure.n) == (pytest.approx(7 / 50), 50)
    assert (figure.low, figure.high) == pytest.approx((0.13462 - 0.13619, 0.13462 + 0.13619), abs=1e-4)
    same = difference([(True, True)] * 30)
    assert same.value == 0 and same.low == pytest.approx(-1.96 / 32, abs=1e-4) and same.high == -same.low
    assert difference([]).n == 0
