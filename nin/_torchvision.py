"""The one place where torchvision is imported.

torchvision from the package index is built against the CUDA build of torch. Beside a CPU build its compiled operators do not
load, and importing it fails with "operator torchvision::nms does not exist" while it registers shape functions for them. Its
Python parts, which are all we use, need none of those, so their registration is skipped where it fails. This can go once
torchvision imports without its compiled operators (pytorch/vision), or its index serves a CPU build.
"""

import torch


def _import() -> None:
    register = torch.library.register_fake

    def register_if_there(op: object, *args: object, **kwargs: object) -> object:
        if isinstance(op, str) and op.startswith("torchvision::") and not _exists(op):
            return lambda function: function
        return register(op, *args, **kwargs)  # type: ignore[arg-type]

    torch.library.register_fake = register_if_there
    try:
        import torchvision  # type: ignore[import-untyped]  # noqa: F401
    finally:
        torch.library.register_fake = register


def _exists(name: str) -> bool:
    namespace, _, operator = name.partition("::")
    return hasattr(getattr(torch.ops, namespace), operator)


_import()

from torchvision import datasets, transforms  # noqa: E402

__all__ = ["datasets", "transforms"]
