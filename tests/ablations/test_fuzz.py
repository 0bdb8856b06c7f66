"""Whatever is asked for or found in a file: an answer, or one line that says what is wrong."""

import json
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from builders import record_of, smoke_runs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ablations.records import Store, curves_frame, runs_frame
from ablations.runs import Run, parse_overrides
from nin.spec import DataSpec, ModelSpec, TrainSpec

SPECS = {"model": ModelSpec, "data": DataSpec, "train": TrainSpec}
KEYS = [f"{part}.{field.name}" for part, spec in SPECS.items() for field in fields(spec)]
QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

values = st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=20))
numbers = st.one_of(st.integers(), st.floats()).map(str)
texts = st.one_of(
    st.text(), numbers, st.sampled_from(["true", "None", "[]", "1e999", "-0.0", "(" * 5000, "9" * 5000, "0x10"])
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), values),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def value_or_error(function: Callable[[], Any]) -> tuple[Any, str]:
    """What it returns, or what its ValueError says; anything else that it raises fails the test."""
    try:
        return function(), ""
    except ValueError as error:
        return None, str(error)


def changed(run: Run, key: str, value: object) -> Run:
    part, _, name = key.partition(".")
    return replace(run, **{part: replace(getattr(run, part), **{name: value})})


@QUICK
@given(key=st.sampled_from(KEYS), text=texts)
def test_a_set_value_is_of_the_fields_type_or_refused(key: str, text: str) -> None:
    part, _, name = key.partition(".")
    value, error = value_or_error(lambda: parse_overrides([f"{key}={text}"])[key])
    if error:
        assert key in error
    else:
        assert type(value) is type(getattr(SPECS[part](), name))


@QUICK
@given(st.text())
def test_whatever_is_set_is_understood_or_refused(override: str) -> None:
    changes, error = value_or_error(lambda: parse_overrides([override]))
    assert changes or "--set" in error


@QUICK
@given(key=st.sampled_from(KEYS), value=values)
def test_a_specification_is_refused_or_has_an_identity_and_survives_its_record(key: str, value: object) -> None:
    run = smoke_runs(seeds=1)[0]
    part, _, name = key.partition(".")
    if type(value) is not type(getattr(getattr(run, part), name)):
        return  # `parse_overrides` has refused it
    run, error = value_or_error(lambda: changed(smoke_runs(seeds=1)[0], key, value))
    if error:
        assert name in error
        return
    assert set(run.run_id) <= set("0123456789abcdef")
    assert len(run.run_id) == 16
    with TemporaryDirectory() as folder:
        store = Store(Path(folder), run.study, run.protocol)
        store.write(record_of(run))
        record = store.read(run.run_id)
        assert record is not None
        assert record.run == run


@QUICK
@given(content=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_a_file_that_is_no_record_is_damaged_in_one_line(content: bytes) -> None:
    assert_record_or_one_line(content)


@QUICK
@given(data=st.data())
def test_a_record_with_something_else_in_it_is_itself_or_damaged_in_one_line(data: st.DataObject) -> None:
    written = json.loads(json.dumps(asdict(record_of(smoke_runs(seeds=1)[0]))))
    inner: Any = written
    while True:  # a random place in it
        key = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
        if not (isinstance(inner[key], dict | list) and inner[key]) or data.draw(st.booleans()):
            break
        inner = inner[key]
    if data.draw(st.booleans()):
        inner[key] = data.draw(json_values)
    else:
        del inner[key]
    assert_record_or_one_line(json.dumps(written).encode())


def test_a_record_nested_beyond_measure_is_damaged_in_one_line() -> None:
    assert_record_or_one_line(b"[" * 100_000)


def assert_record_or_one_line(content: bytes) -> None:
    """Read in the place of the record of a run."""
    run = smoke_runs(seeds=1)[0]
    with TemporaryDirectory() as folder:
        store = Store(Path(folder), run.study, run.protocol)
        store.runs_folder.mkdir(parents=True)
        (store.runs_folder / f"{run.run_id}.json").write_bytes(content)
        records, damaged = store.read_all([run])
        if damaged:
            assert records == {}
            assert "\n" not in damaged[0]
            assert "trained again" in damaged[0]
        else:
            record = records[run.run_id]
            assert record.run == run
            assert len(record.test_correctness()) == record.test_examples
            assert len(runs_frame([record], target=0.5)) == 1
            assert len(curves_frame([record])) == len(record.curve)


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "..", "a/b", "smoke/../../x"])
def test_a_name_that_leads_out_of_the_results_is_no_study_and_no_protocol(name: str) -> None:
    from ablations.catalog import load_study

    with pytest.raises(ValueError, match=r"unknown study|cannot be read|SyntaxError"):
        load_study(name)
    with pytest.raises(ValueError, match="unknown protocol"):
        load_study("num_1x1").expand(name)
