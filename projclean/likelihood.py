"""How likely a model finds words as an answer, or as what follows one: teacher-forced, differentiable in the images.

Words are token ids, not text: a text would have to be split as the model splits its own, and how it goes on from the
prompt (with a space or without) differs between chat templates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from projclean.model import Prepared, Runner, Weights, opened

Words = Sequence[int]

#: Inputs (n, tokens, …) that say which images each token sees; an answer sees what the prompt's last token does.
SIGHTS = ("cross_attention_mask", "image_attention_mask")
#: The type of answer tokens, by model type, where it is not 0: with PaliGemma 0 is the prompt's, and what is of that
#: type sees all of it, an answer's next tokens too. (Only recent transformers could be asked for it.)
ANSWER_TYPE = {"paligemma": 1}


def log_likelihood(runner: Runner, batch: Prepared, reply: Words, after: Sequence[Words] | None = None) -> torch.Tensor:
    """Mean log-probability per token (n,) of a reply, special tokens left out, one value an image.

    `after` is what each image's answer begins with before that.
    """
    words = runner.words(reply)
    before = after or [()] * batch.images
    scores = logits_along(runner, batch, [(*start, *words) for start in before]).log_softmax(-1)
    at = torch.tensor([[len(start) + n for n in range(len(words))] for start in before], device=scores.device)
    chosen = scores.gather(1, at.unsqueeze(-1).expand(-1, -1, scores.shape[-1]))
    answer = torch.tensor(words, device=scores.device).expand(batch.images, -1)
    return chosen.gather(-1, answer.unsqueeze(-1)).squeeze(-1).mean(-1)


def logits_after(runner: Runner, batch: Prepared, answers: Sequence[Words]) -> torch.Tensor:
    """Logits (n, vocabulary) of the token after each image's answer."""
    logits = logits_along(runner, batch, answers)
    ends = torch.tensor([len(answer) for answer in answers], device=logits.device)
    return logits[torch.arange(batch.images, device=logits.device), ends]


def logits_along(
    runner: Runner, batch: Prepared, answers: Sequence[Words], weights: Weights | None = None
) -> torch.Tensor:
    """Logits (n, longest + 1, vocabulary) float32 at the last token of the prompt and along each image's answer.

    With `weights` for the projector instead of those it has, and differentiable in them.
    """
    width, ids = max(len(answer) for answer in answers), batch.inputs["input_ids"]
    pad = runner.processor.tokenizer.pad_token_id or 0
    rows = [[*answer, *[pad] * (width - len(answer))] for answer in answers]
    tail = torch.tensor(rows, device=ids.device).reshape(len(rows), width).to(ids)
    inputs = dict(batch.inputs)
    if runner.model.config.is_encoder_decoder:
        start = opened(runner.model, batch)
        inputs["decoder_input_ids"] = torch.cat([start, tail], 1)
        logits: torch.Tensor = runner.forward(Prepared(inputs, batch.images), None, weights).logits
        return logits[:, start.shape[1] - 1 :].float()
    kept = torch.tensor([[1] * len(answer) + [0] * (width - len(answer)) for answer in answers], device=ids.device)
    kind = ANSWER_TYPE.get(runner.model.config.model_type, 0)
    more = {
        "input_ids": tail,
        "attention_mask": kept.reshape(len(rows), width),
        "token_type_ids": torch.full_like(tail, kind),
    }
    for key, value in inputs.items():
        if key in SIGHTS:
            inputs[key] = torch.cat([value, *[value[:, -1:]] * width], 1)
        elif value.shape == ids.shape:  # one number a token: 0 for answer tokens of any other kind
            inputs[key] = torch.cat([value, more.get(key, torch.zeros_like(tail)).to(value)], 1)
    logits = runner.forward(Prepared(inputs, batch.images), width + 1, weights).logits
    return logits[:, -width - 1 :].float()
