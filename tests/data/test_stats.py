"""Rows and tokens of a task, by hand, by a plain loop, and as the paper's Table 1 has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hycam.backbones import load_tokenizer
from hycam.data.chosen import task
from hycam.data.load import load_task
from hycam.data.sources import PaperCounts, Task
from hycam.data.stats import statistics
from hycam.data.tasks import TASKS
from hycam.errors import HycamError

PAPER = ("auto_cot", "icliniq", "dolly", "code_alpaca", "webgpt")

WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{}\n\n### Response:{}"
)
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{}\n\n### Input:\n{}\n\n### Response:{}"
)


def rows(*texts: tuple[str, str, str]) -> Dataset:
    return Dataset.from_list(
        [
            {"row": str(n), "instruction": asked, "input": given, "response": said, "system": "", "history": []}
            for n, (asked, given, said) in enumerate(texts)
        ]
    )


@pytest.fixture
def some_task() -> Task:
    return Task(name="some", domain="tests", licence="none", sources=())


class TestCounting:
    """With a tokenizer of bytes, so that tokens are counted by counting bytes."""

    def test_is_prompt_and_response_and_one_token(self, some_task: Task, tokenizer: PreTrainedTokenizerFast) -> None:
        found = statistics(some_task, rows(("Ask", "", "answer"), ("Ask", "ü", "")), tokenizer)
        texts = [WITHOUT_INPUT.format("Ask", "answer"), WITH_INPUT.format("Ask", "ü", "")]
        assert found.samples == 2
        assert found.total_tokens == sum(len(text.encode()) + 1 for text in texts)
        assert found.mean_tokens == found.total_tokens / 2
        assert (found.task, found.domain, found.paper_samples, found.paper_tokens) == ("some", "tests", None, None)

    def test_skips_rows_that_a_chat_template_refuses_where_that_is_wanted(
        self, some_task: Task, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
    ) -> None:
        tokenizer.chat_template = (
            "{% for m in messages %}{% if m['content'] == 'bad' %}{{ raise_exception('No.') }}{% endif %}"
            "{{ m['content'] }}</s>{% endfor %}"
        )
        dataset = rows(("a", "", "b"), ("bad", "", "b"), ("c", "", "d"))
        with pytest.raises(HycamError, match=r"^1: .*No"):
            statistics(some_task, dataset, tokenizer, "chat")
        found = statistics(some_task, dataset, tokenizer, "chat", skip_bad_rows=True)
        assert found == statistics(some_task, dataset.select([0, 2]), tokenizer, "chat")
        assert found.samples == 2
        assert caplog.messages[-1].startswith("some: 1 malformed rows skipped; the first: 1: ")
        assert statistics(some_task, dataset.select([1]), tokenizer, "chat", skip_bad_rows=True).samples == 0

    def test_counts_the_rows_of_every_batch(self, some_task: Task, tokenizer: PreTrainedTokenizerFast) -> None:
        one = statistics(some_task, rows(("Ask", "", "answer")), tokenizer)
        many = statistics(some_task, rows(*[("Ask", "", "answer")] * 1001), tokenizer)
        assert (many.samples, many.total_tokens) == (1001, 1001 * one.total_tokens)

    def test_of_no_rows_is_nothing(self, some_task: Task, tokenizer: PreTrainedTokenizerFast) -> None:
        found = statistics(some_task, rows(("Ask", "", "answer")).select([]), tokenizer)
        assert (found.samples, found.total_tokens, found.mean_tokens) == (0, 0, 0.0)

    def test_a_conversation_counts_whole(self, some_task: Task, tokenizer: PreTrainedTokenizerFast) -> None:
        talk = Dataset.from_list(
            [
                {
                    "instruction": "Second",
                    "input": "",
                    "response": "two",
                    "system": "",
                    "history": [{"asked": "First", "answered": "one"}],
                }
            ]
        )
        texts = [WITHOUT_INPUT.format("First", "one"), "\n\n### Instruction:\nSecond\n\n### Response:two"]
        found = statistics(some_task, talk, tokenizer)
        assert (found.samples, found.total_tokens) == (1, sum(len(text) + 1 for text in texts))

    def test_a_template_of_ones_own_is_kept_to_the_letter(
        self, some_task: Task, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        found = statistics(some_task, rows(("Ask", "", "answer")), tokenizer, "Q: {instruction}\nA:\n")
        assert found.total_tokens == len("Q: Ask\nA:\nanswer") + 1

    def test_a_chat_needs_a_template(self, some_task: Task, tokenizer: PreTrainedTokenizerFast) -> None:
        with pytest.raises(HycamError, match="chat template"):
            statistics(some_task, rows(("Ask", "", "answer")), tokenizer, "chat")


class TestThePapersRows:
    @pytest.mark.parametrize(
        ("name", "rows", "told"),
        [
            ("auto_cot", 5816, None),
            ("icliniq", 2002, "2,002 rows; Table 1 of the paper has 7,321, of which these are 27.35%."),
            ("code_alpaca", 20_022, "20,022 rows; Table 1 of the paper has 20,222, a misprint of 20,022"),
            ("gsm8k", 1, None),  # which the paper does not have
        ],
    )
    def test_another_number_is_logged_with_its_share_or_as_a_misprint(
        self, name: str, rows: int, told: str | None
    ) -> None:
        found = TASKS[name].compare(rows)
        assert found is None if told is None else found is not None and found.startswith(f"{name}: {told}")

    def test_exactly_the_papers_tasks_have_its_counts(self) -> None:
        assert [name for name, known in TASKS.items() if known.paper] == list(PAPER)

    @pytest.mark.parametrize(
        ("name", "mean"),
        [("auto_cot", 162.22), ("icliniq", 249.46), ("dolly", 203.86), ("webgpt", 736.49)],
    )
    def test_counts_give_the_printed_mean(self, name: str, mean: float) -> None:
        paper = TASKS[name].paper
        assert isinstance(paper, PaperCounts)
        assert paper.tokens / paper.samples == pytest.approx(mean, abs=0.0051)

    def test_only_the_misprint_does_not(self) -> None:
        paper = TASKS["code_alpaca"].paper
        assert isinstance(paper, PaperCounts)
        assert round(paper.tokens / paper.samples, 2) != 109.66 == round(paper.tokens / 20_022, 2)


@pytest.mark.real
class TestTable1:
    @pytest.fixture(scope="class")
    def llama3(self) -> PreTrainedTokenizerBase:
        return load_tokenizer("llama-3")

    @pytest.mark.parametrize("name", ["auto_cot", pytest.param("code_alpaca", marks=pytest.mark.soak)])
    def test_the_whole_datasets_have_the_papers_total(
        self, paper_data: Path, llama3: PreTrainedTokenizerBase, name: str
    ) -> None:
        found = statistics(task(name), load_task(name, keep_empty=True), llama3)
        assert found.total_tokens == found.paper_tokens

    @pytest.mark.soak
    @pytest.mark.parametrize(("name", "samples", "total"), [("icliniq", 2002, 568_438), ("webgpt", 901, 184_083)])
    def test_the_subsets(
        self, paper_data: Path, llama3: PreTrainedTokenizerBase, name: str, samples: int, total: int
    ) -> None:
        found = statistics(task(name), load_task(name, keep_empty=True), llama3)
        assert (found.samples, found.total_tokens) == (samples, total)

    @pytest.mark.parametrize("name", PAPER)
    def test_a_plain_loop_counts_the_same(self, paper_data: Path, llama3: PreTrainedTokenizerBase, name: str) -> None:
        some = load_task(name, keep_empty=True).select(range(50))
        total = 0
        for row in some:
            if row["input"]:
                text = WITH_INPUT.format(row["instruction"], row["input"], row["response"])
            else:
                text = WITHOUT_INPUT.format(row["instruction"], row["response"])
            total += len(llama3.encode(text))  # with the start token
        assert statistics(task(name), some, llama3).total_tokens == total
