"""Facts under which a report's numbers hold: runs, settings, hardware, versions."""

from collections import Counter
from collections.abc import Iterable, Sequence

from ablations.protocols import PROTOCOLS
from ablations.records import RunRecord
from ablations.reporting.formatting import agreeing, listed, seeds_text
from ablations.reproduce import reproduce_command
from ablations.runs import by_part, length_name, parse_overrides
from ablations.study import FOUND, MEMORY, Study
from nin.spec import BY_SEED


def what_was_run(
    study: Study,
    protocol: str,
    records: Sequence[RunRecord],
    overrides: Sequence[str],
    notes: Sequence[str],
    looks: Sequence[int] = (),
) -> str:
    """The facts under which the numbers hold.

    notes  lines on records that are left out
    looks  numbers of seeds at which comparisons were decided; empty where all runs were asked for at once
    """
    settings = PROTOCOLS[protocol]
    run = next((r.run for r in records if r.run.variant == study.baseline), records[0].run)
    train, data = run.train, run.data
    settings_of_runs = [record.run.settings for record in records]

    def given(setting: str) -> str:
        return _range_text({settings[setting] for settings in settings_of_runs})

    seeds = sorted({record.run.seed for record in records})
    num_lengths = len({record.run.length for record in records})
    num_done = {
        name: len({(r.run.seed, r.run.length) for r in records if r.is_result and r.run.variant == name})
        for name in study.variants
    }
    lacking = [name for name, num in num_done.items() if num < len(seeds) * num_lengths]
    is_partial = any(num_done[name] for name in lacking)
    same = "; some variants lack some of these runs (see below)" if is_partial else ", the same for every variant"
    validation = (
        f"the test set, evaluated {train.evals_per_epoch} times an epoch"
        if data.val_examples == 0
        else f"{data.val_examples:,} images set aside from the training set (split {data.split!r})"
        if not data.name.startswith("folder:")
        else f"at most {data.val_examples:,} images, of val/ where the folder has one, else set aside from the training set"
    )
    has_nin_head = any(r.run.model.head == "nin" for r in records)
    purpose = [f"Protocol `{protocol}`: {settings.purpose}.", settings.note, settings.nin_note if has_nin_head else ""]
    devices = {r.environment.get("device", "") for r in records}
    checksums = sorted({r.data_checksum[:12] for r in records if r.data_checksum})
    facts = [
        " ".join(part for part in purpose if part),
        f"Seeds {seeds_text(seeds)}{same}. Variants: {len({r.run.variant for r in records})} of {len(study.variants)}.",
        f"Training: {_lengths_text(records, given('train.epochs'))}; "
        f"batch {given('train.batch_size')}; {given('train.optimizer')}, lr {given('train.lr')}, momentum {given('train.momentum')}, "
        f"weight decay {given('train.weight_decay')}, schedule {given('train.schedule')}, {_precisions_text(records)}; "
        f"weights {given('model.init')}.",
        _tuning_fact(study, overrides)
        + (f"; changed from the protocol by {', '.join(f'`--set {o}`' for o in overrides)}." if overrides else "."),
        f"Data: {listed({r.run.data.name for r in records})}, {agreeing(checksums, 'checksum', 'checksums')} "
        f"{listed(checksums)}. "
        "Train accuracy is on training images, in evaluation mode after the last step. "
        f"Validation accuracy (targets, curves) is on {validation}. "
        f"Test accuracy is on the test set after the last step{', read once' if data.val_examples else ''}.",
        f"Device: {listed(devices)}{'; timings are not comparable across devices' if len(devices) > 1 else ''}. Versions: "
        f"{listed({_versions(r) for r in records})}.",
        f"Commit: {listed({r.environment.get('commit') or 'unknown' for r in records})}.",
        f"Wall time: {sum(r.wall_seconds for r in records if r.is_result) / 60:.1f} minutes summed over runs, "
        f"{sum(r.train_seconds for r in records if r.is_result) / 60:.1f} of them training.",
    ]
    if study.answers not in MEMORY:
        facts.insert(3, _variance_fact(records))
    facts.append(f"Command: `{reproduce_command(study, [record.run for record in records], overrides, looks)}`")
    facts += [f"Failed: {record.run.label}: {record.error}" for record in records if not record.is_result]
    if lacking:
        untrained = [name for name in lacking if not num_done[name]]
        partial = [name for name in lacking if num_done[name]]
        left_out = " (a control that would be identical to another variant is left out)"
        is_control = all(study.variants[name].match for name in untrained)
        if untrained:
            facts.append(f"Not trained: {listed(untrained)}{left_out if is_control else ''}.")
        if partial:
            of_what = "some seeds or training lengths" if num_lengths > 1 else "some seeds"
            facts.append(f"Without results for {of_what}: {listed(partial)}.")
    return "\n".join(f"- {fact}" for fact in [*facts, *notes])


def _lengths_text(records: Sequence[RunRecord], epochs: str) -> str:
    """The lengths of training in images where the protocol sets them, else epochs and the images they come to."""
    lengths = sorted({record.run.length for record in records})
    if lengths[-1]:
        return f"{listed(map(length_name, lengths))} images"
    images = _range_text({record.examples_given for record in records})
    return f"{epochs} {'epoch' if epochs == '1' else 'epochs'}, {images} training images"


def _variance_fact(records: Sequence[RunRecord]) -> str:
    """Sources of variance that intervals cover: everything that differs between seeds, and test images where stated."""
    runs = [record.run for record in records]
    splits = {run.data.split for run in runs}
    by_division = {
        "the division into training and validation images": any(run.data.val_examples for run in runs),
        "the choice of labels that are redrawn": any(run.data.label_noise for run in runs),
        "the choice of a part of the training images": any(
            run.data.train_fraction < 1 or run.data.train_examples for run in runs
        ),
    }
    divided = [name for name, applies in by_division.items() if applies]
    varied = [
        ("first weights", True),
        ("the order of images", True),
        ("dropout", any(run.model.dropout > 0 and run.model.head != "lenet" for run in runs)),  # LeNet's has none
        ("augmentation", any(run.data.augment != "none" for run in runs)),
        *((name, splits == {BY_SEED}) for name in divided),
    ]
    fixed = [
        *((name, bool(splits - {BY_SEED})) for name in divided),
        ("the choice of hyperparameters", True),
    ]
    covered = listed(name for name, applies in varied if applies)
    *others, last = (name for name, applies in fixed if applies)
    left_out = f"{', '.join(others)} or {last}" if others else last
    return (
        f"Intervals cover what differs from seed to seed: {covered}. Those *over seeds and test images* also cover the choice of "
        f"test images. None covers {left_out}."
    )


def _precisions_text(records: Sequence[RunRecord]) -> str:
    """ "bf16", or that runs which ask for one precision were computed in several, as on machines of different kinds."""
    runs = Counter(record.precision for record in records)
    requested_and_used = {(record.run.settings["train.precision"], record.precision) for record in records}
    if len(requested_and_used) == len({requested for requested, _ in requested_and_used}):
        return listed(sorted(runs))
    return f"**computed in different precisions ({listed([f'{name}: {runs[name]} runs' for name in sorted(runs)])})**"


def _tuning_fact(study: Study, overrides: Sequence[str]) -> str:
    if study.pairs:
        return "Variants marked as tuned have hyperparameters found by tuning; all others have the protocol's"
    if study.searches and FOUND in study.variants:
        return f"Variant {FOUND} has the hyperparameters found by tuning; all others have the protocol's"
    changed = by_part(parse_overrides(overrides))["train"]
    studied = sorted(set[str]().union(*(variant.train for variant in study.variants.values())) - changed.keys())
    besides = f" but for what is studied ({listed(studied)})" if studied else ""
    return f"Hyperparameters are the same for all variants{besides}; none was tuned"


def _range_text(values: Iterable[object]) -> str:
    """ "0.1", "0.01, 0.05 and 0.1" or, of many numbers, "1 to 512"."""
    numbers = sorted(value for value in values if isinstance(value, int | float))
    if len(numbers) > 3:
        return f"{_number_text(numbers[0])} to {_number_text(numbers[-1])}"
    return listed([_number_text(number) for number in numbers] or sorted(map(str, values)))


def _number_text(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def _versions(record: RunRecord) -> str:
    kept = ("python", "torch", "cuda", "threads")
    return ", ".join(f"{key} {record.environment[key]}" for key in kept if record.environment.get(key))
