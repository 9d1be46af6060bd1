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
    "trains": "exactly the intended parameters are trained, and no other changes by a bit",
    "reload": "loaded in a new process, the logits are equal bit for bit (fp32)",
    "padding": "a row alone has the logits that it has in a batch padded on the right or on the left, within 2e-6",
    "frozen_layers": "cached states of the frozen layers give the logits of a whole forward pass, bit for bit (fp32)",
    "accumulation": "accumulated small batches give the gradient of the large batch, within 1e-5 of its norm",
    "cue": "a truncated prompt keeps its end, and the tokens removed from its middle change no logit",
    "by_hand": "an adapted layer gives W·x + (alpha/r)·B·A·x, computed by hand",
    "merged": "the merged model's logits equal the unmerged one's, within 5e-6 (fp32)",
    "plain": "plain PEFT, or plain Transformers if there are no adapters, loads the folder and predicts the same",
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
