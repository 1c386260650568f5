"""A live model: swap the projector's weights in place, watch and move the projector's inputs, ask it about images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from projclean import layout
from projclean.checkpoint import check_unchanged
from projclean.errors import CheckpointError, ModelError
from projclean.guard import Guard, attach, detach, read_guard
from projclean.hooks import hook
from projclean.loading import brief, chat, load, opening, placeholders, processed
from projclean.projectors import LayerSpec, match_projector
from projclean.subspace import Moments

if TYPE_CHECKING:
    from PIL.Image import Image

    from projclean.checkpoint import Checkpoint

#: A layer's matrix (out, in) and bias (out,) or None.
Weights = Mapping[str, tuple[torch.Tensor, torch.Tensor | None]]
Progress = Callable[[int, int], None]


class _Enough(Exception):
    """What was looked for in a forward pass was seen."""


@dataclass(frozen=True)
class Prepared:
    """A batch ready for the model, and how many images are in it."""

    inputs: Mapping[str, Any]
    images: int


def _in_dtype_of(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A model's inputs in the type that it runs in now, which may not be that in which they were prepared."""
    dtype = next(model.parameters()).dtype
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}


def opened(model: Any, batch: Prepared) -> torch.Tensor:
    """What an encoder-decoder's answers to a batch start from, (n, tokens)."""
    ids = batch.inputs["input_ids"]
    return torch.tensor(opening(model.generation_config), device=ids.device).to(ids).expand(batch.images, -1)


class Runner:
    """A model that can be run with any projector weights. Greedy decoding, no sampling anywhere.

    `guard` is the norm clip that it runs behind, None for none.
    """

    def __init__(self, checkpoint: Checkpoint, pattern: str | None = None, device: str | None = None) -> None:
        """Load a model directory, and attach its guard if it has one.

        Raises ModelError when transformers cannot, without running the model's own code.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        guard = read_guard(checkpoint.path)
        loaded = load(checkpoint, device)
        check_unchanged(checkpoint)  # what transformers read is what was opened
        self._adopt(checkpoint.path, *loaded, device, checkpoint.model_type, pattern)
        try:
            self.set_guard(guard)
        except ModelError as error:
            raise CheckpointError(f"{checkpoint.path}/{error}") from error

    @classmethod
    def around(cls, model: Any, processor: Any = None, pattern: str | None = None) -> Runner:
        """A runner around a model that is already in memory; without a processor, batches are made by the caller."""
        runner = cls.__new__(cls)
        runner._adopt(Path(), model.eval(), processor, str(model.device), model.config.model_type, pattern)
        return runner

    def _adopt(
        self, path: Path, model: Any, processor: Any, device: str, model_type: str | None, pattern: str | None
    ) -> None:
        self.path, self.device, self.model, self.processor = path, device, model, processor
        names = {name: tuple(p.shape) for name, p in self.model.named_parameters()}
        spec = match_projector(names, model_type, pattern)
        if spec is None:
            raise ModelError(f"{path}: the loaded model has no projector layer")
        self._others = spec.others
        self._specs: dict[str, LayerSpec] = {layer.name: layer for layer in spec.layers}
        self.guard: Guard | None = None

    @property
    def size(self) -> int:
        """How many parameters the model has."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    # -- projector weights ------------------------------------------------------------------------------------

    @property
    def layers(self) -> list[str]:
        """Names of the projector's layers, as in `projectors.LayerSpec.name`."""
        return list(self._specs)

    def weights(self) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
        """Copies of the projector weights that the model has now."""
        result = {}
        for name, spec in self._specs.items():
            weight = layout.matrix(self._parameter(spec.weight).detach(), spec).float().cpu().clone()
            bias = layout.vector(self._parameter(spec.bias).detach(), spec) if spec.bias else None
            result[name] = (weight, None if bias is None else bias.float().cpu().clone())
        return result

    def set_weights(self, weights: Weights) -> None:
        """Replace the projector's matrices and biases.

        The parameters are new objects, so a graph that was built with the old ones can still be differentiated.
        """
        for key, value in self.parameters_of(weights).items():
            self._replace(key, value)

    def set_guard(self, guard: Guard | None) -> None:
        """Run behind this guard from now on, or behind none. Raises ModelError when it guards no layer of this one."""
        if guard is None:
            detach(self.model)
        else:
            attach(self.model, guard, self._specs)
        self.guard = guard

    def parameters_of(self, weights: Weights) -> dict[str, torch.Tensor]:
        """Matrices and biases under the loaded model's own parameter names, in its orientation and dtype.

        Differentiable, so that `torch.func.functional_call` can train them.
        """
        result: dict[str, torch.Tensor] = {}
        for name, (weight, bias) in weights.items():
            spec = self._specs[name]
            result[spec.weight] = layout.with_matrix(self._current(spec.weight, result), spec, weight)
            if spec.bias and bias is not None:
                result[spec.bias] = layout.with_vector(self._current(spec.bias, result), spec, bias)
        return result

    def _current(self, key: str, pending: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """A parameter with what is pending for other rows of it."""
        return pending[key] if key in pending else self._parameter(key).detach()

    def set_others(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Replace projector parameters that are no matrices, by their canonical names; unknown ones are skipped."""
        for name in set(tensors) & set(self._others):
            self._replace(self._others[name], tensors[name])

    def parameter_names(self) -> list[str]:
        """The live names of all parameters."""
        return [name for name, _ in self.model.named_parameters()]

    @torch.no_grad()
    def change_parameter(self, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace a parameter outside the projector by what `change` makes of it (on the CPU, in any dtype)."""
        self._replace(name, change(self._parameter(name).detach().cpu()))

    def _parameter(self, key: str) -> nn.Parameter:
        return self.model.get_parameter(key)

    def _replace(self, key: str, value: torch.Tensor) -> None:
        old = self._parameter(key)
        parent, _, leaf = key.rpartition(".")
        setattr(self.model.get_submodule(parent), leaf, nn.Parameter(value.to(old), requires_grad=False))

    # -- inputs ------------------------------------------------------------------------------------------------

    def prepare(self, images: Sequence[Image], prompts: str | Sequence[str]) -> Prepared:
        """Images and one prompt, or one each, as model inputs."""
        asked = [prompts] * len(images) if isinstance(prompts, str) else prompts
        try:
            inputs = processed(self.processor, images, [chat(self.processor, prompt) for prompt in asked])
        except Exception as error:  # the processor is the model's own: anything may go wrong in it
            raise ModelError(f"{self.path}: its processor refuses an image and a prompt ({brief(error)})") from error
        kept = {
            key: value.to(self.device)
            for key, value in inputs.items()
            if isinstance(value, torch.Tensor) and key != "labels"  # PaliGemma's makes them too: for training
        }
        return Prepared(_in_dtype_of(self.model, kept), len(images))

    def batches(self, images: Sequence[Image], prompts: Sequence[str], size: int) -> list[Prepared]:
        """Images and a prompt each as model inputs, so many at a time."""
        parts = [slice(first, first + size) for first in range(0, len(images), size)]
        return [self.prepare(images[part], prompts[part]) for part in parts]

    # -- running -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def layer_inputs(self, batch: Prepared) -> dict[str, torch.Tensor]:
        """What every projector layer multiplies on a batch: (rows, in) float32 on the CPU, in the order of running.

        Rows are image tokens, image by image where the images give equally many (images of one size do).
        """
        seen: dict[str, list[torch.Tensor]] = {}

        def watch(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
            def see(x: torch.Tensor) -> torch.Tensor:
                seen.setdefault(name, []).append(x.reshape(-1, x.shape[-1]).float().cpu())
                return x

            return see

        with contextlib.ExitStack() as stack:
            for name in self._specs:
                stack.enter_context(self.hooked(name, watch(name)))
            self.forward(batch, logits_to_keep=1)
        return {name: torch.cat(rows) for name, rows in seen.items()}

    def moments(self, batches: Sequence[Prepared], progress: Progress | None = None) -> dict[str, Moments]:
        """Second moments of every projector layer's inputs over the image tokens of the batches.

        Also fixes the order of layers: `layers` and the result are in the order in which the model runs them.
        """
        found: dict[str, Moments] = {}
        for done, batch in enumerate(batches, 1):
            for name, x in self.layer_inputs(batch).items():
                found.setdefault(name, Moments.of_width(x.shape[-1])).add(x)
            if progress:
                progress(done, len(batches))
        self._specs = {name: self._specs[name] for name in [*found, *(n for n in self._specs if n not in found)]}
        return found

    def input_norms(self, batches: Sequence[Prepared]) -> torch.Tensor:
        """Norms (rows,) of what the first projector layer multiplies: all image tokens of the batches."""
        return torch.cat([self.layer_inputs(batch)[self.layers[0]].norm(dim=-1) for batch in batches])

    def inputs_of(self, layer: str, batch: Prepared) -> torch.Tensor:
        """What one layer first multiplies on a batch, (rows, in) float32, differentiable; nothing after it is run."""
        seen: list[torch.Tensor] = []

        def watch(x: torch.Tensor) -> torch.Tensor:
            seen.append(x.reshape(-1, x.shape[-1]).float())
            raise _Enough

        with contextlib.suppress(_Enough), self.hooked(layer, watch):
            self.forward(batch, logits_to_keep=1)
        return seen[0]

    def next_token_logits(self, batch: Prepared) -> torch.Tensor:
        """Logits (n, vocabulary) of the first answer token, differentiable."""
        logits: torch.Tensor = self.forward(batch, logits_to_keep=1).logits
        return logits[:, -1].float()

    @torch.no_grad()
    def replies(self, batch: Prepared, max_new_tokens: int, unsaid: Collection[int] = ()) -> list[tuple[int, ...]]:
        """Greedy answers as token ids, one an image, with the token that ends them if they end; none of them holds a
        token that is to stay `unsaid`."""
        never = {*unsaid, *(self.model.generation_config.suppress_tokens or ())}
        ids = self.model.generate(
            **_in_dtype_of(self.model, batch.inputs),
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            return_dict_in_generate=False,
            **({"suppress_tokens": sorted(never)} if never else {}),
        )
        prompt = batch.inputs["input_ids"].shape[1]
        if self.model.config.is_encoder_decoder:
            # What a decoder starts from may be the token that ends an answer.
            ids = ids[:, len(opening(self.model.generation_config)) :]
        elif ids.shape[1] > prompt and torch.equal(ids[:, :prompt], batch.inputs["input_ids"]):
            ids = ids[:, prompt:]
        return [self._ended(row) for row in ids.tolist()]

    def _ended(self, ids: list[int]) -> tuple[int, ...]:
        """A row of generated ids without what pads it."""
        ends = self.model.generation_config.eos_token_id
        ends = set(ends) if isinstance(ends, list) else {ends}
        return tuple(ids[: next((at + 1 for at, token in enumerate(ids) if token in ends), len(ids))])

    def read(self, reply: Sequence[int]) -> str:
        """A reply as text, without special tokens."""
        return str(self.processor.batch_decode([list(reply)], skip_special_tokens=True)[0]).strip()

    def answers(self, batch: Prepared, max_new_tokens: int) -> list[str]:
        """Greedy answers, one an image, without special tokens."""
        return [self.read(reply) for reply in self.replies(batch, max_new_tokens)]

    def words(self, reply: Sequence[int]) -> tuple[int, ...]:
        """A reply without its special tokens and placeholders."""
        special = set(self.processor.tokenizer.all_special_ids)
        return tuple(token for token in self.led_along(reply) if token not in special)

    def led_along(self, reply: Sequence[int]) -> tuple[int, ...]:
        """A reply as the model can be led along it: without placeholders, for which it would want more images."""
        wanting = placeholders(self.model.config)
        return tuple(token for token in reply if token not in wanting)

    def forward(self, batch: Prepared, logits_to_keep: int | None, weights: Weights | None = None) -> Any:
        """What the model returns for a batch, with the logits of the last positions alone, or all; differentiable.

        With `weights` for the projector instead of those it has, and differentiable in them.
        """
        last = {} if logits_to_keep is None else {"logits_to_keep": logits_to_keep}
        inputs = {**_in_dtype_of(self.model, batch.inputs), **last, "use_cache": False}
        if self.model.config.is_encoder_decoder and "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = opened(self.model, batch)
        if weights is None:
            return self.model(**inputs)
        return torch.func.functional_call(self.model, self.parameters_of(weights), (), inputs)

    @contextlib.contextmanager
    def hooked(self, layer: str, change: Callable[[torch.Tensor], torch.Tensor], first: bool = False) -> Iterator[None]:
        """While open, a layer's input passes through `change` in every forward pass; `first` is before the guard."""
        handle = hook(self.model, self._specs[layer], change, first)
        try:
            yield
        finally:
            handle.remove()
