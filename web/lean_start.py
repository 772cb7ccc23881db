"""A start with less work: Gradio without its editor stubs, and no search for garbage among what stays.

When a component's class is made, Gradio parses the class's source and renders a stub file beside it (.pyi), which only editors
read. That is half of the import's processor time, and writes into the installed package. There is no setting for it.
"""

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODULE, WRITER = "gradio.component_meta", "create_or_modify_pyi"


class WithoutStubs(MetaPathFinder):
    """Finds Gradio's module of component classes, once, and replaces its writer of stubs; a version without one is left alone."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        loader: Any = None if spec is None else spec.loader
        if loader is not None:
            execute = loader.exec_module

            def execute_without_stubs(module: ModuleType) -> None:
                execute(module)
                if hasattr(module, WRITER):
                    setattr(module, WRITER, lambda *_, **__: None)

            loader.exec_module = execute_without_stubs
        return spec


def skip_stubs() -> None:
    """Let the coming import of Gradio write no stubs; without effect if Gradio is imported."""
    if MODULE not in sys.modules:
        sys.meta_path.insert(0, WithoutStubs())


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Makes many objects that stay, such as modules, without searching them for garbage again and again; none is searched later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
