"""Derivatives of the ops: reverse mode, in eager code, torch.func and torch.compile; the rest is refused by name.

torch.library.register_autograd does not serve: its ops (torch 2.13) raise under torch.func's grad, vjp and jacrev, and
drop the tangents of forward mode, so that jvp and jacfwd answer 0.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

_LIBRARY = torch.library.Library("varfast", "IMPL")


def _floats(values: Iterable[object]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]


def _transformed() -> bool:
    """Whether a transform of torch.func or a level of forward mode is under way: a look at two variables.

    A graph that is traced enters levels without Python's count of them, but only inside a transform.
    """
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def _has_tangent(values: Iterable[object]) -> bool:
    """Whether forward mode is under way by one of these; torch has one level of it, 0."""
    return _transformed() and any(
        forward_ad.unpack_dual(value, level=0).tangent is not None for value in _floats(values)
    )


def call(op: torch._ops.OpOverload, *arguments: Any) -> Any:
    """op(*arguments), which spares the dispatcher the kernel of derivatives where there are none to take.

    That kernel is Python, and doubles the time of a small call.
    """
    if (
        (torch.is_grad_enabled() and any([isinstance(x, Tensor) and x.requires_grad for x in arguments]))
        or _transformed()
        or torch.compiler.is_compiling()
    ):
        return op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op._op(*arguments)  # what op.__call__ comes to: 0.3 us less


class _Once(torch.autograd.Function):
    """Hands on gradients that came about without a graph, and raises where they are differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(title: str, count: int, *tensors: Tensor | None) -> Any:
        return tuple(None if x is None else x.view_as(x) for x in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        ctx.title = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(f"{ctx.title} has no derivative: detach it, or leave out create_graph")

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(f"{ctx.title} does not support forward mode")


def register_autograd(
    op: str, backward: Callable | None = None, setup: Callable | None = None, once: bool = False
) -> None:
    """Registers the reverse mode of `op`: setup(ctx, inputs, output) and backward(ctx, *grads), as torch.library does.

    With `once`, what `backward` returns raises where it is differentiated itself. Without `backward` the op has no
    derivative: its integers carry none, its floats raise once one is asked for. Forward mode raises for every op:
    torch.compile drops the jvp of an autograd.Function, so it cannot be offered.
    """
    overload = getattr(torch.ops.varfast, op).default
    returns_list = str(overload._schema.returns[0].type) == "List[Tensor]"
    defaults = tuple(argument.default_value for argument in overload._schema.arguments)
    title = f"varfast.{op}" if not op.endswith("_backward") else f"the gradient of varfast.{op[: -len('_backward')]}"

    def below(keyset: Any, inputs: tuple) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return overload.redispatch(keyset & torch._C._after_autograd_keyset, *inputs)

    # Of one level of torch.func alone: the dispatcher calls the kernel below for each.
    class Derivative(torch.autograd.function._SingleLevelFunction):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            *inputs, keyset = args
            # A Function's forward runs without either mode; the outer levels of torch.func need theirs.
            with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
                output = below(keyset, tuple(inputs))
            output = tuple(output) if isinstance(output, list) else output
            if setup is not None:
                setup(ctx, tuple(inputs), output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            if backward is None:
                raise NotImplementedError(
                    f"{title} has no derivative: detach what it is given or what it returns, or call it under no_grad"
                )
            if not once:
                return *backward(ctx, *grads), None
            with torch.no_grad():
                result = backward(ctx, *grads)
            if torch.is_grad_enabled():
                result = _Once.apply(f"the gradient of {title}", len(result), *result, *grads, *ctx.saved_tensors)
            return *result, None

    Derivative.__name__ = Derivative.__qualname__ = op  # autograd shows it in grad_fn

    def kernel(keyset: Any, *given: Any) -> Any:
        inputs = given + defaults[len(given) :]  # `setup` and `backward` see them all
        if torch.is_grad_enabled() and any(value.requires_grad for value in _floats(inputs)):
            with enable_single_level_autograd_function():
                output = Derivative.apply(*inputs, keyset)  # type: ignore[attr-defined]
        else:
            output = below(keyset, inputs)
        floats = _floats(output if isinstance(output, (tuple, list)) else (output,))
        if _has_tangent(inputs) and any(value.numel() for value in floats):
            cure = "use reverse mode (torch.func.vjp, jacrev)" if backward is not None else "it has no derivative"
            raise NotImplementedError(
                f"{title} does not support forward mode (torch.func.jvp, jacfwd, torch.autograd.forward_ad): {cure}"
            )
        return list(output) if returns_list else output

    _LIBRARY.impl(op, kernel, "Autograd", with_keyset=True)
