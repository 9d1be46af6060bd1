"""What the proofs run over, and what each proves; of families laid out like another, a few cells."""

from tests.tiny import DECODERS, ENCODERS

METHODS = ("full", "lora", "qlora")
HEADS = {
    "label_scoring": "label scoring, words of one token",
    "several_tokens": "label scoring, words of several tokens",
    "linear": "linear",
    "mlp": "mlp",
}
CELLS = [
    (architecture, method, head)
    for architecture in (*DECODERS, *ENCODERS)
    for method in METHODS
    for head in (HEADS if architecture in DECODERS else ("linear", "mlp"))
] + [("mistral", "lora", "label_scoring"), ("mistral", "lora", "several_tokens"), ("xlm-roberta", "lora", "linear")]
PROOFS = {
    "trains": "exactly the intended parameters train, and nothing else moves by a bit",
    "reload": "a fresh process reloads to bit-equal logits (fp32)",
    "padding": "one row alone equals the same row in a batch padded on the right or on the left, to 2e-6",
    "trunk": "going on from the frozen trunk's states is the whole pass, bit for bit (fp32)",
    "accumulation": "small batches, accumulated, give the gradient of the large one, to 1e-5 of its norm",
    "cue": "a truncated prompt keeps the cue, and its lost middle changes no logit",
    "by_hand": "an adapted layer gives W·x + (alpha/r)·B·A·x, multiplied out by hand",
    "merged": "the merged model's logits equal the unmerged one's, to 5e-6 of fp32 logits",
    "plain": "plain PEFT, or plain Transformers where nothing is adapted, loads the folder and gives the same answers",
    "pipeline": "the merged folder gives the same probabilities in Transformers' text-classification pipeline",
}


def applies(proof: str, cell: tuple[str, str, str]) -> bool:
    """Whether there is anything to prove."""
    _, method, head = cell
    if proof in ("by_hand", "merged"):
        return method != "full"
    if proof == "plain":
        return head != "mlp"
    if proof == "pipeline":
        return head in ("label_scoring", "linear")
    return True
