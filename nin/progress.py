"""Progress bar of a training, in a terminal or in a notebook, whose output is updated in place."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from nin.history import Evaluation


@contextmanager
def progress_bar(num_examples: int, shown: bool = True) -> Iterator[Callable[[Evaluation], None]]:
    """Context with a function to call with each point of the curve; shows nothing outside terminals and notebooks."""
    console = Console()
    if shown and console.is_jupyter:
        yield _in_notebook(num_examples)
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as bars:
        bar = bars.add_task("training", total=num_examples)
        yield lambda point: bars.update(bar, completed=point.examples, description=_text(point))


def _in_notebook(num_examples: int) -> Callable[[Evaluation], None]:
    from IPython.display import HTML, display

    handle = display(HTML("training"), display_id=True)  # type: ignore[no-untyped-call]

    def show(point: Evaluation) -> None:
        bar = f'<progress value="{point.examples}" max="{num_examples}"></progress>'
        handle.update(HTML(f"{bar} {_text(point)}"))  # type: ignore[no-untyped-call]

    return show


def _text(point: Evaluation) -> str:
    return f"epoch {point.epoch:.1f}, loss {point.train_loss:.3f}, validation accuracy {point.val_accuracy:.1%}"
