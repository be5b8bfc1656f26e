"""Question sets in the layouts they are published in, and how they sound."""

import gzip
import importlib.util
import json

import numpy as np
import pytest

from spectron.audio import espeak, wav
from spectron.data.question_sets import Question, read_questions, recordings
from spectron.types import UserError

HUM = (3000 * np.sin(np.arange(8000) / 9)).astype(np.int16)
needs_espeak = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None, reason="the extra 'synth' is not installed"
)


def write(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def llama(tmp_path):
    """LLaMA-Questions' folder: tab, CRLF, one answer each."""
    folder = tmp_path / "llama"
    for number in (1, 2):
        wav.write(folder / f"{number}.wav", HUM[: 4000 * number], 16_000)
    lines = ["Questions\tAnswer\tWav Filename", "How many colors?\tSeven\t1.wav", "Symbol of chlorine?\tCl\t2.wav"]
    (folder / "llama_questions_300.tsv").write_bytes("\r\n".join([*lines, ""]).encode())
    return folder


def test_llama_questions_in_their_published_layout(llama):
    found = read_questions(llama)
    assert found.name == "llama_questions_300"
    assert found.questions == (
        Question("1", "How many colors?", ("Seven",), llama / "1.wav"),
        Question("2", "Symbol of chlorine?", ("Cl",), llama / "2.wav"),
    )
    first, second = recordings(found.questions, 16_000)
    np.testing.assert_array_equal(first, HUM[:4000])
    np.testing.assert_array_equal(second, HUM)
    assert read_questions(f"mine={llama}").name == "mine"
    before = found.checksum
    wav.write(llama / "2.wav", HUM[::-1], 16_000)
    assert read_questions(llama).checksum != before, "another recording is another set"


def test_some_recordings_missing_is_a_mistake_and_all_missing_is_text(llama):
    (llama / "1.wav").unlink()
    with pytest.raises(UserError, match=r"1 recordings that do not exist.*1\.wav"):
        read_questions(llama)
    (llama / "2.wav").unlink()
    assert [q.audio for q in read_questions(llama).questions] == [None, None]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "who  wrote\tit", "answer": ["Bobby Scott", "Bob Russell"]},  # NQ-Open
        {"id": 0, "question": "who wrote it", "answers": ["Bobby Scott", " Bob Russell "]},
        {"question": "who wrote it", "answers": ["Bobby Scott", "Bob Russell"], "prompt": None},
    ],
)
def test_rows_of_jsonl(tmp_path, row):
    expected = Question("0", "who wrote it", ("Bobby Scott", "Bob Russell"))
    assert read_questions(write(tmp_path / "dev.jsonl", row)).questions == (expected,)
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "dev.jsonl").read_bytes()))
    assert read_questions(packed).questions == (expected,)


def test_webquestions_and_triviaqa_as_published(tmp_path):
    target = '(list (description "Jamaican \\"Creole\\"") (description Lawyer) (description "Jamaican English"))'
    path = tmp_path / "webquestions.examples.test.json"
    path.write_text(json.dumps([{"url": "u", "targetValue": target, "utterance": "what do they speak?"}]))
    (found,) = read_questions(path).questions
    assert found.answers == ('Jamaican "Creole"', "Lawyer", "Jamaican English")
    path = tmp_path / "unfiltered-web-dev.json"
    answer = {"Value": "Mark Twain", "Aliases": ["Sam Clemens", "Mark Twain"], "NormalizedAliases": ["x"]}
    path.write_text(json.dumps({"Data": [{"Question": "Who?", "QuestionId": "tc_1", "Answer": answer}]}))
    assert read_questions(path).questions == (Question("tc_1", "Who?", ("Mark Twain", "Sam Clemens")),)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"question": "a?", "answers": []}], "line 1, has no answer"),
        ([{"question": "a?", "answer": "b"}, {"answer": "b"}], "line 2, has no text"),
        ([{"task": "other"}, {"question": "a?", "answers": [1]}], r"line 2, has answers that are no texts \(\[1\]\)"),
        ([{"question": "a?", "answers": {"b": 1}}], "line 1, has answers that are no texts"),
        ([{"question": "a?", "answers": 5}], "line 1, has answers that are no texts"),
        ([{"question": "a?", "answers": ["b", " "]}], "line 1, has answers that are no texts"),
        ([{"question": "a?", "answers": "b", "audio": 5}], "line 1, names the recording 5, which is no file name"),
        ([{"id": "x", "question": "a?", "answer": "b"}] * 2, "two questions with the id 'x'"),
        ([], "holds no questions"),
        ([["a?", "b"]], "line 1, is not a JSON object"),
        ([{"task": "continuation"}], "holds no questions"),
    ],
)
def test_mistakes_are_named(tmp_path, rows, said):
    with pytest.raises(UserError, match=said):
        read_questions(write(tmp_path / "q.jsonl", *rows))


def test_mistakes_of_files(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.jsonl' do not exist"):
        read_questions(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match="holds no questions"):
        read_questions(tmp_path)
    for name, content, said in (
        ("a.txt", b"", "an unknown kind"),
        ("a.jsonl", b"{", "line 1, is not JSON"),
        ("a.json", b"{}", "neither as WebQuestions"),
        ("b.json", b'{"Data": [5]}', "neither as WebQuestions"),
        ("c.json", b'{"Data": [{"Question": "a?", "Answer": "bob"}]}', "question 1, has no answer laid out as"),
        ("d.json", b'[{"utterance": "a?", "targetValue": 5}]', "question 1, has a 'targetValue' that is no text"),
        ("a.tsv", b"what\twhy\n", "starts with no line"),
        ("b.jsonl", b"\xff", "line 1, is not UTF-8 text"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=said):
            read_questions(tmp_path / name)
    (tmp_path / "a.tsv").unlink()
    with pytest.raises(UserError, match="2 files"):
        read_questions(tmp_path)


def test_lines_end_where_json_says(tmp_path):
    path = tmp_path / "q.jsonl"
    row = {"question": "a\u2028b?", "answers": ["x\u2028y"]}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(row, ensure_ascii=False).encode() + b"\r\n")
    (found,) = read_questions(path).questions
    assert found.answers == ("x\u2028y",)


def test_a_few_are_evenly_spread(tmp_path):
    path = write(tmp_path / "q.jsonl", *({"question": f"{i}?", "answer": str(i)} for i in range(11)))
    assert [q.question for q in read_questions(path, 3).questions] == ["0?", "5?", "10?"]
    assert len(read_questions(path, 50).questions) == 11


@needs_espeak
def test_questions_without_a_recording_are_spoken_once(tmp_path, monkeypatch):

    asked = [
        Question("1", "what is it?", ("x",)),
        Question("2", "who was it?", ("x",)),
        Question("3", "what is it?", ("y",)),
    ]
    first = recordings(asked, 16_000, folder=tmp_path)
    assert all(0.3 < len(samples) / 16_000 < 2 and samples.dtype == np.int16 for samples in first)
    np.testing.assert_array_equal(first[0], first[2])
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(espeak, "synthesise_all", None)  # whoever speaks again fails
    for again, samples in zip(recordings(asked, 16_000, folder=tmp_path), first, strict=True):
        np.testing.assert_array_equal(again, samples)
    with pytest.raises(TypeError):
        recordings(asked, 16_000, "en-us+f2", tmp_path)


def test_real_question_sets(data_dir):
    samples = read_questions(data_dir / "spectron_samples")
    assert len(samples.questions) == 6 and all(q.audio for q in samples.questions)
    assert [q.answers for q in samples.questions][-1] == ("Cl",)
    assert 1.5 < len(recordings(samples.questions[:1], 16_000)[0]) / 16_000 < 5.5
    assert samples.name == "spectron_samples"
    for name, count in (("webquestions/test", 2032), ("nq_open/dev", 3610), ("triviaqa_sub1k/test_1000", 1000)):
        found = read_questions(data_dir / f"{name}.jsonl")
        assert (found.name, len(found.questions)) == (name.replace("/", " "), count)
