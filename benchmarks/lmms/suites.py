"""adafv's suites as lmms-eval tasks. Nothing is stored: images are drawn as they are asked for."""

from typing import Any

from lmms_eval.api.task import ConfigurableMessagesTask

from adafv.data.judging import same_answer
from adafv.data.suites import load_suite, suite_length


class Suite(ConfigurableMessagesTask):
    """A suite of `adafv.evaluation`; `dataset_name` says which."""

    def __init__(self, config: dict[str, Any]) -> None:
        # lmms-eval leaves the class in what it passes to it
        own = dict(config)
        own.pop("class", None)
        super().__init__(config=own)

    def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
        """Stand for a download: there is nothing to fetch."""
        # lmms-eval wants a second one without images; here they are drawn when asked for
        self.dataset = self.dataset_no_image = {"test": Questions(self.DATASET_NAME)}


class Questions:
    """The questions of a suite, with what lmms-eval uses of a `datasets.Dataset`.

    Drawing the 2,000 questions of a suite takes half a minute, and `--limit 16` needs three
    images: hence no Dataset.
    """

    def __init__(self, suite: str) -> None:
        self.suite = suite
        self.samples = load_suite(suite)
        self.docs: list[dict[str, Any]] = []
        self.features = dict.fromkeys(("id", "image", "question", "answer"))

    def __len__(self) -> int:
        return suite_length(self.suite)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= len(self):
            raise IndexError(index)
        # draw as far as is asked for
        while index >= len(self.docs):
            sample = next(self.samples)
            for i, question in enumerate(sample.questions):
                doc = {
                    "id": f"{sample.id}/{i}",
                    "image": sample.image,
                    "question": question.text,
                    "answer": question.answer,
                }
                self.docs.append(doc)
        return self.docs[index]


def exact_match(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return 1 where the answer is the truth, as `adafv eval` compares them."""
    return {"exact_match": float(same_answer(results[0], doc["answer"]))}
