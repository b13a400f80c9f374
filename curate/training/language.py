"""A causal language model as a pure function of its parameters."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.autograd.forward_ad as forward_ad
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from curate.errors import CurateError, SettingsError
from curate.gradients.labels import dual_level
from curate.proxies.devices import products, refuse_wider, sent
from curate.proxies.experts import expose_experts
from curate.proxies.proxy import DTYPES
from curate.proxies.quantisation import unpack_kept
from curate.training.blocks import output_of
from curate.training.dual import Plain, dual
from curate.training.dual_layers import parts
from curate.training.microbatches import MicroBatch
from curate.training.optimisers import Tensors
from curate.training.recipe import Recipe


class LanguageModel:
    """A transformers model with the parameters that a recipe trains; see `Differentiable`.

    Dropout is off. Where tangents are carried along, attention is torch's plain one: the fused ones have no
    forward derivative.
    """

    def __init__(self, model: PreTrainedModel, recipe: Recipe) -> None:
        """Take over `model`: convert it to the recipe's precision, and add adapters if the recipe has them."""
        refuse_wider(model.device, precision=recipe.precision)
        unpack_kept(model, DTYPES[recipe.precision])
        model.to(DTYPES[recipe.precision]).eval().requires_grad_(not recipe.lora_rank)  # type: ignore[arg-type]
        if recipe.lora_rank:
            model = _with_adapters(model, recipe)
        expose_experts(model)  # grouped products have no forward derivative
        if model.config._attn_implementation not in ("sdpa", "eager"):
            model.set_attn_implementation("sdpa")
        for module in model.modules():
            # Padding carries no loss, so its embedding needs no exception; the same token inside a document, which
            # is what a chat template's end of turn may be, must have its gradient.
            if isinstance(module, nn.Embedding):
                module.padding_idx = None
        self.model = model
        self._names = [n for n, p in model.named_parameters() if p.requires_grad]
        linears = {id(m.weight) for m in model.base_model.modules() if type(m) in (nn.Linear, Conv1D)}
        embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        with _exactly(self.device, fused=True):
            self._output = output_of(model, self._names)
        self._linear = frozenset(self._weights_of(nn.Linear)) & set(self._names)
        self._tables = frozenset(self._weights_of(nn.Embedding)) & set(self._names)
        self.matrices = frozenset(n for n, p in model.named_parameters() if id(p) in linears - embeddings) & set(
            self._names
        )

    def _weights_of(self, kind: type[nn.Linear | nn.Embedding]) -> Iterator[str]:
        weights = {id(m.weight) for m in self._output.runs.modules() if isinstance(m, kind)}
        return (n for n, p in self.model.named_parameters() if id(p) in weights)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def parameters(self) -> Tensors:
        named = dict(self.model.named_parameters())
        return {n: named[n].detach() for n in self._names}

    def gradients(
        self, parameters: Tensors, batch: MicroBatch, coefficients: Float[Tensor, "sequences tokens"]
    ) -> tuple[Float[Tensor, "sequences tokens"], Tensors]:
        with _exactly(self.device, fused=True), torch.enable_grad():
            batch, coefficients = batch.to(self.device), sent(coefficients, self.device)
            leaves = {n: p.detach().requires_grad_() for n, p in parameters.items()}
            totals = {n: torch.zeros_like(p) for n, p in parameters.items() if n in self._linear}
            with Plain(leaves, totals):
                last = self._output.last(leaves, batch.batch.ids)
            losses, pull, by_head = self._output.derivatives(
                leaves, last.detach().flatten(0, 1), batch.batch.labels.flatten(), coefficients.flatten()
            )
            summed = torch.autograd.grad(last, list(leaves.values()), pull.view_as(last), allow_unused=True)
        gradients: Tensors = {}
        for name, gradient in zip(parameters, summed, strict=True):
            gradients[name] = _added(totals.get(name), by_head.get(name), gradient, like=parameters[name])
        return losses.view(coefficients.shape), gradients

    @torch.no_grad()
    def losses(self, parameters: Tensors, batch: MicroBatch) -> Float[Tensor, "sequences tokens"]:
        with _exactly(self.device, fused=True):
            batch = batch.to(self.device)
            last, labels = self._output.last(parameters, batch.batch.ids), batch.batch.labels
            return self._output.losses(parameters, last.flatten(0, 1), labels.flatten()).view(labels.shape)

    def products(
        self,
        parameters: Tensors,
        directions: Tensors,
        batch: MicroBatch,
        coefficients: Float[Tensor, "sequences tokens"],
    ) -> tuple[Float[Tensor, "sequences tokens"], Tensors]:
        totals = {n: torch.zeros_like(p) for n, p in parameters.items() if n in self._linear | self._tables}
        hessian: Tensors = {}
        with _exactly(self.device), torch.enable_grad(), dual(parameters, directions, totals) as (leaves, mode):
            batch, coefficients = batch.to(self.device), sent(coefficients, self.device)
            with mode:
                last = self._output.last(leaves, batch.batch.ids).flatten(0, 1)
            slopes, pull, by_head = self._output.products(
                parameters, directions, last, batch.batch.labels.flatten(), coefficients.flatten()
            )
            try:
                dual_gradients = torch.autograd.grad(last, list(leaves.values()), pull, allow_unused=True)
            except NotImplementedError as error:
                raise CurateError(
                    f"{type(self.model).__name__} cannot be differentiated twice: {str(error).splitlines()[0]}",
                    hint="MAGIC needs another proxy; every other method works with this one.",
                ) from error
            for name, gradient in zip(parameters, dual_gradients, strict=True):
                tangent = None if gradient is None else parts(gradient)[1]
                hessian[name] = _added(totals.get(name), by_head.get(name), tangent, like=parameters[name])
        return slopes.view(coefficients.shape), hessian

    @torch.no_grad()
    def slopes(self, parameters: Tensors, directions: Tensors, batch: MicroBatch) -> Float[Tensor, "sequences tokens"]:
        with _exactly(self.device), dual_level():
            batch = batch.to(self.device)
            leaves = {n: forward_ad.make_dual(p.detach(), directions[n]) for n, p in parameters.items()}
            last = self._output.last(leaves, batch.batch.ids).flatten(0, 1)
            labels = batch.batch.labels
            return self._output.products(parameters, directions, last, labels.flatten(), None)[0].view(labels.shape)


def _added(*parts: Tensor | None, like: Tensor) -> Tensor:
    """Add up what is there, in the memory of the first; zeros where nothing is."""
    first, *others = [part for part in parts if part is not None] or [torch.zeros_like(like)]
    for other in others:
        first += other
    return first


@contextmanager
def _exactly(device: torch.device, *, fused: bool = False) -> Iterator[None]:
    """Compute in full single precision, in a fixed order; on torch's plain attention unless `fused` is allowed."""
    strict = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True)
    try:
        with products("float32"), attention(device, fused=fused):
            yield
    finally:
        torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])


def attention(device: torch.device, *, fused: bool) -> AbstractContextManager[object]:
    """Choose kernels whose way back adds up in the same order every time: a CPU's, and two of CUDA's when made to.

    https://github.com/pytorch/pytorch/blob/v2.6.0/aten/src/ATen/native/transformers/cuda/attention_backward.cu
    """
    if not fused or device.type not in ("cpu", "cuda"):
        return sdpa_kernel(SDPBackend.MATH)
    if device.type == "cpu":
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def _with_adapters(model: PreTrainedModel, recipe: Recipe) -> PreTrainedModel:
    """Add LoRA adapters, the only parameters that train then, under the names that a proxy's folder has for them."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha or 2 * recipe.lora_rank,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=list(recipe.lora_targets) or "all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft uses a name that transformers will drop; users cannot change that.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        torch.manual_seed(recipe.seed)
        try:
            adapted = get_peft_model(model, config, autocast_adapter_dtype=False).get_base_model()  # type: ignore[operator]
        except ValueError as error:
            raise SettingsError(
                f"No layer's name ends with {' or '.join(recipe.lora_targets)}.",
                hint="lora_targets names linear layers: q_proj, v_proj, down_proj, ….",
            ) from error
    return adapted.eval()  # type: ignore[return-value]
