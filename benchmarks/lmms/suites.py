"""adafv's suites as lmms-eval tasks. Nothing is stored: images are drawn as they are asked for."""

from typing import Any

from lmms_eval.api.task import ConfigurableMessagesTask

from adafv.data.suites import load_suite, suite_length


class Suite(ConfigurableMessagesTask):
    """A suite of `adafv.evaluation`; `dataset_name` says which."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
        self.dataset = self.dataset_no_image = {"test": Questions(self.DATASET_NAME)}


class Questions:
    """The questions of a suite, in the part of the interface of a `datasets.Dataset` that lmms-eval
    uses.

    Drawing the 2,000 questions of a suite takes half a minute, and `--limit 16` needs three
    images: hence no Dataset.
    """

    def __init__(self, suite: str) -> None:
        self.suite, self.samples = suite, load_suite(suite)
        self.docs: list[dict[str, Any]] = []
        self.features = dict.fromkeys(("id", "image", "question", "answer"))

    def __len__(self) -> int:
        return suite_length(self.suite)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= len(self):
            raise IndexError(index)
        while index >= len(self.docs):
            sample = next(self.samples)
            self.docs += [
                {
                    "id": f"{sample.id}/{i}",
                    "image": sample.image,
                    "question": q.text,
                    "answer": q.answer,
                }
                for i, q in enumerate(sample.questions)
            ]
        return self.docs[index]


def exact_match(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """1 where the answer is the truth, whatever the case: the comparison of `adafv eval`."""
    return {"exact_match": float(results[0].strip().casefold() == doc["answer"].strip().casefold())}
