"""Which operators a TorchScript program may use without the user's trust.

Judged is what PyTorch compiled, not the text it compiled. An operator can reach files, processes or
the terminal only through a name that it is given, or through an object that stands for such a
thing; so PyTorch's own operators on tensors, numbers and containers pass, and one that takes text
passes if it is known to use it as a mode, a message or plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

# Missing on purpose: Print, PythonOp, IgnoredPythonOp and rpc_*.
_LANGUAGE: Final = """
AddStatValue AutogradAdd AutogradAllNonZero AutogradAllZero AutogradAnyNonZero AutogradZero
BroadcastSizes CallFunction CallMethod ChunkSizes Closure Constant ConstantChunk CreateObject
DictConstruct Drop Enter EnumName EnumValue Exit FusedConcat GetAttr If IfThenElse
LegacyTypedConstructor ListConstruct ListUnpack Load Loop MMBatchSide MMTreeReduce
ModuleContainerIndex NumToTensor Param RaiseException ReductionSizes Return SetAttr Store
StringIndex TupleConstruct TupleIndex TupleSlice TupleUnpack Uninitialized VarConcat VarStack
abs annotate awaitable awaitable_nowait awaitable_wait data device dtype fork grad id index
is_cpu is_cuda is_ipu is_maia is_meta is_mkldnn is_mps is_mtia is_nested is_quantized
is_sparse is_sparse_csr is_vulkan is_xla is_xpu isinstance itemsize layout max min name nbytes
rangelist requires_grad tolist type unchecked_cast unchecked_unwrap_optional unchecked_unwrap
"""
LANGUAGE: Final = frozenset(_LANGUAGE.split())
"""What the language itself consists of."""

_WITH_TEXT: Final = """
Delete Float Int __contains__ __getitem__ __interpolate __is__ __isnot__ __upsample
_assert_async _assert_scalar _convolution_mode _functional_assert_async
_functional_assert_scalar _linalg_check_errors _linalg_eigh _linalg_svd _set_item add add_ any
append as_tensor capitalize center clear conv1d conv2d conv3d copy count device dict div div_
divide divide_ einsum endswith eq expandtabs extend fft_fft fft_fft2 fft_fftn fft_hfft
fft_hfft2 fft_hfftn fft_ifft fft_ifft2 fft_ifftn fft_ihfft fft_ihfft2 fft_ihfftn fft_irfft
fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftn find format ge gelu gelu_ get gt hash index
index_reduce index_reduce_ insert isalnum isalpha isdecimal isdigit isidentifier islower
isnumeric isprintable isspace istitle isupper items join keys le len linalg_cond linalg_eigh
linalg_eigvalsh linalg_lstsq linalg_matrix_norm linalg_norm linalg_qr linalg_svd
linalg_svdvals list ljust lower lstrip lt meshgrid mul nanquantile ne ord pad pad_sequence
partition percentFormat pop popitem quantile remove replace reverse rfind rindex rjust
rpartition rsplit rstrip scatter scatter_ scatter_reduce scatter_reduce_ searchsorted select
setdefault slice sort sorted split splitlines startswith stft str strip swapcase tensor title
update upper values warn zfill
"""
WITH_TEXT: Final = frozenset(_WITH_TEXT.split())
"""Operators of PyTorch that may be given text: a mode, a device, a message, or a value."""

TENSORS_ONLY: Final = frozenset({"quantized", "_quantized", "torchvision", "mkldnn", "onednn"})
"""Namespaces beside PyTorch's own whose operators pass while nothing but tensors, numbers and
packed weights goes in and comes out."""

_TEXT: Final = re.compile(r"\bstr\b")
_HANDLES: Final = re.compile(
    r"\b(Storage|Stream|RRef|Capsule|PyObject)\b|torch\.classes\.(?!quantized\.|rnn\.|sparse\.)"
)


def forbidden(unit: Any) -> str | None:
    """The first thing in a compiled program that needs trust, as "calls 'save'"; None if nothing.

    Looked at is every function and method that was compiled, called or not.

    Args:
        unit: a `torch._C.CompilationUnit`.
    """
    kinds: set[str] = set()
    for function in unit.get_functions():
        for node in _nodes(function.graph):
            if (reason := _reason(node)) is not None:
                return reason
            kinds.add(node.kind())
    # From its own threads, PyTorch writes warnings to the terminal as they are.
    background = {"prim::fork", "prim::awaitable"} & kinds
    return "calls 'warn' in the background" if background and "aten::warn" in kinds else None


def _nodes(block: Any) -> Iterator[Any]:
    """All nodes of a graph, with those of its branches and of the functions that it keeps."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)
        for name in node.attributeNames():
            kind = node.kindOf(name)
            if kind == "g":
                yield from _nodes(node.g(name))
            elif kind == "gs":
                for graph in node.gs(name):
                    yield from _nodes(graph)


def _reason(node: Any) -> str | None:
    namespace, _, name = node.kind().partition("::")
    types = [str(value.type()) for value in (*node.inputs(), *node.outputs())]
    if any(_HANDLES.search(text) for text in types):
        return f"handles an object of PyTorch's that is no tensor in {name!r}"
    if namespace == "prim":
        return None if name in LANGUAGE else f"calls {name!r}"
    text = any(_TEXT.search(kind) for kind in types)
    if namespace == "aten":
        return None if not text or name in WITH_TEXT else f"calls {name!r}"
    fine = namespace in TENSORS_ONLY and not text
    return None if fine else f"calls {f'{namespace}::{name}'!r}"
