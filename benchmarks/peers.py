"""What a user would run instead, each on the same rows, in a process of its own: `python -m benchmarks.peers NAME ...`.

Prints a line of JSON: seconds of training and of inference, peak memory, and the answers to the test rows. A peer's
seconds are those of its own `train` and `predict`: loading weights and validation are not counted.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labeltune.modeling import device
from labeltune.modeling.architectures import ARCHITECTURES, is_encoder
from labeltune.modeling.base_models import load_config
from labeltune.runtime import environment
from labeltune.runtime.files import read_prepared

MAX_LENGTH = 128
BATCH = 16
EPOCHS = 2
RANK, ALPHA = 8, 16
ANSWERED = 64
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Rows to learn from and rows to answer."""

    texts: dict[str, list[str]]
    """`train` and `test`."""
    labels: dict[str, list[int]]
    """Likewise, as places in `names`."""
    names: list[str]
    """The labels."""
    model: Path
    """Folder of the base model."""
    seed: int
    steps: int
    """Optimizer steps after which a slow peer stops, its seconds being those of all in proportion; 0: all. It answers
    the first `ANSWERED` rows alone, likewise."""
    max_length: int = MAX_LENGTH
    """Most tokens of a row."""

    @classmethod
    def read(cls, prepared: Path, model: Path, seed: int, steps: int, max_length: int = MAX_LENGTH) -> "Task":
        """Read prepare's train and test rows."""
        frames = {split: read_prepared(prepared / f"{split}.csv") for split in ("train", "test")}
        names = sorted(frames["train"]["label"].unique())
        return cls(
            texts={split: frame["text"].tolist() for split, frame in frames.items()},
            labels={split: [names.index(label) for label in frame["label"]] for split, frame in frames.items()},
            names=names,
            model=model,
            seed=seed,
            steps=steps,
            max_length=max_length,
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a side took and gave."""

    train_seconds: float
    inference_seconds: float
    answers: list[str] | None
    """To the test rows; None of a training that was cut short."""
    peak_mib: int = 0

    def __str__(self) -> str:
        return json.dumps(asdict(self))


def trainer_lora(task: Task) -> Measured:
    """Transformers' Trainer with PEFT, as its guides have it: fp32, every row padded to the longest allowed."""
    return _trainer(task, full=False, tuned=False, rate=2e-4)


def trainer_lora_tuned(task: Task) -> Measured:
    """The same, tuned: the faster dtype, batches of rows of similar length, no padding beyond, eager attention.

    The rate suits the kind of model: at 1e-3 MPNet learns nothing in its first epoch (docs/log.md).
    """
    encoder = is_encoder(load_config(task.model))
    return _trainer(task, full=False, tuned=True, rate=3e-4 if encoder else 1e-3)


def minilm(task: Task) -> Measured:
    """Full tuning of MiniLM by the Trainer, its best configuration."""
    return _trainer(task, full=True, tuned=True, rate=1e-4)


def _trainer(task: Task, *, full: bool, tuned: bool, rate: float) -> Measured:
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(task.seed)
    dtype = device.choose_dtype("auto") if tuned else "fp32"
    tokenizer = AutoTokenizer.from_pretrained(task.model, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        task.model,
        num_labels=len(task.names),
        dtype=torch.float32 if full else device.DTYPES[dtype],
        attn_implementation="eager" if tuned else "sdpa",
        trust_remote_code=False,
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    if not full:
        lora = LoraConfig(
            task_type="SEQ_CLS", r=RANK, lora_alpha=ALPHA, lora_dropout=0.0 if tuned else 0.05,
            target_modules=list(ARCHITECTURES[model.config.model_type].attention),
        )  # fmt: skip
        model = get_peft_model(model, lora)

    def rows(split: str) -> Any:
        encoded = tokenizer(
            task.texts[split], truncation=True, max_length=task.max_length, padding=False if tuned else "max_length"
        )
        return Dataset.from_dict({**encoded, "labels": task.labels[split]})

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, num_train_epochs=EPOCHS, max_steps=task.steps or -1, seed=task.seed,
            per_device_train_batch_size=BATCH, per_device_eval_batch_size=BATCH, learning_rate=rate, report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True, bf16=full and dtype == "bf16",
            use_cpu=not torch.cuda.is_available(),
            train_sampling_strategy="group_by_length" if tuned else "random",
        )  # fmt: skip
        trainer = Trainer(
            model=model, args=arguments, train_dataset=rows("train"), data_collator=DataCollatorWithPadding(tokenizer)
        )
        train_seconds = _seconds(trainer.train)
        steps = trainer.state.global_step
        # Batches of like length would permute what predict() gives; sorted rows are as fast and can be told apart.
        arguments.train_sampling_strategy = "random"
        test = rows("test")
        order = list(range(len(test)))[: ANSWERED if task.steps else None]
        if tuned:
            order.sort(key=lambda row: len(test[row]["input_ids"]))
        started = time.perf_counter()
        found = trainer.predict(test.select(order)).predictions.argmax(axis=1).tolist()
        inference_seconds = (time.perf_counter() - started) * len(test) / len(order)
    answers = [task.names[place] for _, place in sorted(zip(order, found, strict=True))]
    whole = -(-len(task.labels["train"]) // BATCH) * EPOCHS
    return Measured(
        train_seconds=train_seconds * whole / steps,
        inference_seconds=inference_seconds,
        answers=None if task.steps else answers,
    )


def label_words(task: Task) -> Measured:
    """Naive label scoring: a causal model with LoRA, the whole vocabulary, a forward pass for each label."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.nn import functional
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(task.seed)
    tokenizer = AutoTokenizer.from_pretrained(task.model, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model: Any = AutoModelForCausalLM.from_pretrained(task.model, dtype=torch.float32, trust_remote_code=False)
    model = get_peft_model(
        model,
        LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, lora_dropout=0.05, target_modules=PROJECTIONS),
    )
    model.to(device.device())
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=2e-4)

    def scores(texts: list[str]) -> torch.Tensor:
        columns = []
        for name in task.names:
            words = len(tokenizer(f" {name}", add_special_tokens=False).input_ids)
            batch = tokenizer(
                [f"{text} Label: {name}" for text in texts], truncation=True, max_length=task.max_length, padding=True,
                return_tensors="pt", truncation_side="left",
            ).to(device.device())  # fmt: skip
            chances = functional.log_softmax(model(**batch).logits[:, :-1].float(), dim=-1)
            picked = chances.gather(2, batch.input_ids[:, 1:, None]).squeeze(2)  # [batch, length - 1]
            last = batch.attention_mask.sum(1) - 1
            places = torch.arange(picked.shape[1], device=picked.device)
            inside = (places[None] < last[:, None]) & (places[None] >= last[:, None] - words)
            columns.append((picked * inside).sum(1))
        return torch.stack(columns, dim=1)

    count = len(task.texts["train"])
    order = [row for _ in range(EPOCHS) for row in torch.randperm(count).tolist()]
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    done = batches[: task.steps] if task.steps else batches
    started = time.perf_counter()
    for rows in done:
        answers = torch.tensor([task.labels["train"][row] for row in rows], device=device.device())
        functional.cross_entropy(scores([task.texts["train"][row] for row in rows]), answers).backward()
        optimizer.step()
        optimizer.zero_grad()
    train_seconds = (time.perf_counter() - started) * len(batches) / len(done)
    model.eval()
    texts, found = task.texts["test"][: ANSWERED if task.steps else None], []
    started = time.perf_counter()
    with torch.no_grad():
        for start in range(0, len(texts), BATCH):
            found += scores(texts[start : start + BATCH]).argmax(dim=1).tolist()
    return Measured(
        train_seconds=train_seconds,
        inference_seconds=(time.perf_counter() - started) * len(task.texts["test"]) / len(texts),
        answers=None if task.steps else [task.names[place] for place in found],
    )


def setfit(task: Task) -> Measured:
    """SetFit: for each row a pair of its label and one of another, and a logistic regression on the sentence encoder.

    Its default, every pair that there is, would take hours for a few hundred rows.
    """
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    model = SetFitModel.from_pretrained(str(task.model), trust_remote_code=False)
    model.model_body.max_seq_length = task.max_length
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, batch_size=BATCH, num_epochs=1, num_iterations=1, max_steps=task.steps or -1,
            seed=task.seed, show_progress_bar=False, save_strategy="no", report_to=[],
        )  # fmt: skip
        rows = Dataset.from_dict({"text": task.texts["train"], "label": task.labels["train"]})
        train_seconds = _seconds(Trainer(model=model, args=arguments, train_dataset=rows).train)
    started = time.perf_counter()
    found = [int(place) for place in model.predict(task.texts["test"], batch_size=32, show_progress_bar=False)]
    return Measured(
        train_seconds=train_seconds,
        inference_seconds=time.perf_counter() - started,
        answers=[task.names[place] for place in found],
    )


def tfidf(task: Task) -> Measured:
    """TF-IDF of characters and a logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True, min_df=2)
    model = make_pipeline(vectors, LogisticRegression(C=20, max_iter=2000))
    train_seconds = _seconds(lambda: model.fit(task.texts["train"], task.labels["train"]))
    started = time.perf_counter()
    found = model.predict(task.texts["test"]).tolist()
    return Measured(
        train_seconds=train_seconds,
        inference_seconds=time.perf_counter() - started,
        answers=[task.names[place] for place in found],
    )


def fasttext(task: Task) -> Measured:
    """fastText: averaged vectors of words, their pairs and their characters."""
    import fasttext

    def line(text: str) -> str:
        return " ".join(text.lower().split())

    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as rows:
        for text, label in zip(task.texts["train"], task.labels["train"], strict=True):
            print(f"__label__{label}", line(text), file=rows)
        rows.flush()
        started = time.perf_counter()
        model = fasttext.train_supervised(
            rows.name, lr=0.5, dim=50, epoch=25, wordNgrams=2, minn=2, maxn=4, bucket=200_000,
            thread=device.cores(), seed=task.seed, verbose=0,
        )  # fmt: skip
        train_seconds = time.perf_counter() - started
    started = time.perf_counter()
    # Its own `predict` asks NumPy 2 for what that no longer does.
    found = [model.f.predict(line(text) + "\n", 1, 0.0, "strict")[0][1] for text in task.texts["test"]]
    return Measured(
        train_seconds=train_seconds,
        inference_seconds=time.perf_counter() - started,
        answers=[task.names[int(label.removeprefix("__label__"))] for label in found],
    )


PEERS: dict[str, Callable[[Task], Measured]] = {
    "trainer-lora": trainer_lora,
    "trainer-lora-tuned": trainer_lora_tuned,
    "label-words": label_words,
    "minilm": minilm,
    "setfit": setfit,
    "tfidf": tfidf,
    "fasttext": fasttext,
}
SENTENCES = ("minilm", "setfit")
"""Peers on MiniLM, whatever the recipe's model."""
SLOW = ("trainer-lora", "label-words")
"""Peers that take most of an hour for thousands of rows: a few steps tell their rate."""


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure one peer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--rows", type=Path, default=Path("data/prepared"))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--max-length", type=int, default=MAX_LENGTH)
    options = parser.parse_args()
    task = Task.read(options.rows, options.model, options.seed, options.steps, options.max_length)
    found = PEERS[options.peer](task)
    print(Measured(**asdict(found) | {"peak_mib": environment.peak_memory()}))


if __name__ == "__main__":
    main()
