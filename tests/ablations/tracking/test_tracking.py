"""What a study leaves in MLflow, read back through its client. Each test tracks a study of its own in one database."""

import base64
import json
import math
import re
import shutil
import socket
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import record_of
from tracked_studies import CURVES, FINALS, LEVELS, STUDY, Tracked, server, study_of, until

from ablations.records import Store
from ablations.study import Variant
from ablations.tracking import mlflow_tree as tracking

CHROMIUM = shutil.which("chromium")


# What is there when all went well: two variants of three seeds, with 50, 60 and 70 % of test images right


@pytest.fixture(scope="module")
def done(results: Path) -> Tracked:
    folder = results / "files"
    for name in ("report.md", "runs.csv", ".inputs", "figures/curves.png", "weights.pt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("# Title\n\nThe answer.\n\nMore.")
    tracked = study_of(results, "done")
    tracked.track([record_of(run, test_accuracy=0.5 + run.seed / 10) for run in tracked.runs(seeds=3)], folder)
    return tracked


def test_variants_are_under_the_study_and_seeds_under_their_variants(done: Tracked) -> None:
    parent = done.one("study")
    assert "mlflow.parentRunId" not in parent.data.tags
    assert [run.info.run_name for run in done.logged("variant")] == ["average", "max"]
    for variant in done.logged("variant"):
        assert variant.data.tags["mlflow.parentRunId"] == parent.info.run_id
        name = variant.data.tags["variant"]
        seeds = done.logged("seed", variant=name)
        assert [run.info.run_name for run in seeds] == [f"{name} seed {seed}" for seed in range(3)]
        assert {run.data.tags["mlflow.parentRunId"] for run in seeds} == {variant.info.run_id}
    assert {run.info.status for level in LEVELS for run in done.logged(level)} == {"FINISHED"}


def test_a_seed_has_its_curves_over_examples_seen(done: Tracked) -> None:
    logged = done.one("seed", variant="max", seed="1")
    for key, values in {
        "train/loss": [2.3, 2.3 / 2, 2.3 / 3, 2.3 / 4],
        "train/accuracy": [0.15, 0.3, 0.45, 0.6],
        "val/loss": [2.3, 2.3 / 2, 2.3 / 3, 2.3 / 4],
        "val/accuracy": [0.15, 0.3, 0.45, 0.6],
        "val/dead_classes": [0, 0, 0, 0],
    }.items():
        assert done.curve(logged, key) == list(zip([256, 512, 768, 1024], map(pytest.approx, values), strict=True))


def test_the_time_of_a_metric_is_training_time(done: Tracked) -> None:
    logged = done.one("seed", variant="max", seed="1")  # evaluated after every 0.5 s of training
    times = [point.timestamp for point in done.client.get_metric_history(logged.info.run_id, "val/loss")]
    assert [each - logged.info.start_time for each in times] == [500, 1000, 1500, 2000]


def test_a_seed_has_its_final_metrics_once(done: Tracked) -> None:
    logged = done.one("seed", variant="max", seed="1")
    finals = {key: value for key, value in logged.data.metrics.items() if key not in CURVES}
    assert finals == pytest.approx(
        {
            "test/accuracy": 0.6,
            "test/loss": 0.5,
            "generalization_gap": 0.02,
            "dead_classes": 0,
            "params/total": 1100,
            "params/trunk": 1000,
            "params/head": 100,
            "gflops": 0.002,
            "peak_memory_mb": 10.0,
            "convergence/examples_to_target": 1024,  # where validation accuracy first is 0.5 or more
            "convergence/reached": 1,
            "train_seconds": 2.0,
        }
    )
    assert [[step for step, _ in done.curve(logged, key)] for key in finals] == [[0]] * len(finals)


def test_parameters_are_the_resolved_run_flat(done: Tracked) -> None:
    run = done.runs()[1]
    params = done.one("seed", variant="max", seed="0").data.params
    assert params["model.num_1x1"] == str(run.model.num_1x1)
    assert params["data.name"] == "synthetic"
    assert params["train.lr"] == str(run.train.lr)
    assert params["seed"] == "0"
    assert done.one("variant", variant="max").data.params == {key: params[key] for key in params if key != "seed"}


def test_tags_say_what_a_run_is(done: Tracked) -> None:
    assert {
        **{"study": "done", "protocol": "smoke", "variant": "max", "role": "confirmatory", "seed": "0"},
        **{"run_id": done.runs()[1].run_id, "status": "finished", "device": "cpu (test)", "precision": "float32"},
    }.items() <= done.one("seed", variant="max", seed="0").data.tags.items()


def test_the_data_set_is_an_input_at_every_level(done: Tracked) -> None:
    for run in (run for level in LEVELS for run in done.logged(level)):
        (data,) = run.inputs.dataset_inputs
        assert (data.dataset.name, data.dataset.digest) == ("synthetic", "0" * 36)


def test_report_and_figures_are_artifacts_of_the_study(done: Tracked) -> None:
    parent = done.one("study")
    assert [file.path for file in done.client.list_artifacts(parent.info.run_id)] == [
        "figures",
        "report.md",
        "runs.csv",
    ]
    assert [file.path for file in done.client.list_artifacts(parent.info.run_id, "figures")] == ["figures/curves.png"]
    assert parent.info.artifact_uri.startswith((done.results / "mlartifacts").as_uri())
    assert parent.data.tags["mlflow.note.content"] == "Which?\n\nThe answer.\n\nMore."


def test_a_variant_has_means_over_seeds_under_the_names_of_its_seeds(done: Tracked) -> None:
    variant = done.one("variant", variant="max")
    assert variant.data.metrics.keys() == FINALS | {*CURVES, "val/accuracy_sd", "test/accuracy_sd", "num_seeds"}
    assert done.curve(variant, "val/accuracy") == [(256 * k, pytest.approx(0.6 * k / 4)) for k in (1, 2, 3, 4)]
    assert done.curve(variant, "val/accuracy_sd")[-1] == (1024, pytest.approx(0.1))
    assert done.curve(variant, "test/accuracy") == [(0, pytest.approx(0.6))]
    assert done.curve(variant, "test/accuracy_sd") == [(0, pytest.approx(0.1))]
    assert variant.data.metrics["num_seeds"] == 3


def test_a_variants_colour_is_that_of_the_figures(done: Tracked) -> None:
    import pandas as pd
    from matplotlib.colors import to_hex

    from ablations.reporting.axes import Tables

    tables = Tables(done.study, "smoke", *[pd.DataFrame()] * 3, copies=3)
    for run in [*done.logged("variant"), *done.logged("seed")]:
        assert run.data.tags["mlflow.runColor"].lower() == to_hex(tables.colour(run.data.tags["variant"]))


def test_no_two_variants_have_the_same_colour() -> None:
    colours = [tracking._colour(place) for place in range(60)]
    assert len({*colours, tracking.BLACK}) == 61
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in colours)


def test_the_study_has_its_main_metrics_and_the_settings_that_its_runs_share(done: Tracked) -> None:
    study, seed = done.one("study").data, done.one("seed", variant="max", seed="0").data
    assert study.metrics == {"test_accuracy/average": 0.6, "test_accuracy/max": pytest.approx(0.6), "num_runs": 6}
    shared = {key: value for key, value in seed.params.items() if key not in ("seed", "model.pooling")}
    own = {"protocol": "smoke", "baseline": "average", "variants": "2", "margin": str(STUDY.margin)}
    assert study.params == shared | own | {"target": str(STUDY.target("smoke"))}


def test_a_seed_has_its_record_as_an_artifact(tracked: Tracked, tmp_path: Path) -> None:
    store = Store(tmp_path, tracked.study.name, "smoke")
    record = record_of(tracked.runs()[0])
    store.write(record)
    tracked.track([record], store.folder)
    (file,) = tracked.client.list_artifacts(tracked.one("seed").info.run_id)
    assert file.path == f"{record.run_id}.json"
    assert file.file_size == (store.runs_folder / file.path).stat().st_size


VIEWS = ("Accuracy and size", "Convergence", "Parallel coordinates", "Accuracy against parameters")


def views_of(tracked: Tracked) -> dict[str, dict[str, Any]]:
    """Saved views by name, read as MLflow's interface reads them: an envelope, and in it a state that is deflated JSON."""
    tags = tracked.client.get_experiment_by_name(f"nin-ablations/{tracked.study.name}").tags
    views = [json.loads(value) for key, value in tags.items() if key.startswith("mlflow.sharedViewState.")]
    assert all(view["state"].startswith("deflate;") for view in views)
    return {
        view["name"]: json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix("deflate;"))))
        for view in views
    }


def test_saved_views_show_all_variants_and_what_matters_first(done: Tracked) -> None:
    views = views_of(done)
    assert set(views) == {f"{name} (smoke)" for name in VIEWS}
    known = set(done.one("variant", variant="max").data.metrics)
    for view in views.values():
        assert view["searchFilter"] == "tags.level='variant' and tags.protocol='smoke'"
        assert view["runsHiddenMode"] == "SHOW_ALL"
        used = {chart.get("metricKey") for chart in view["compareRunCharts"]} - {None}
        used |= {
            chart[axis]["key"] for chart in view["compareRunCharts"] for axis in ("xaxis", "yaxis") if axis in chart
        }
        used |= {key for chart in view["compareRunCharts"] for key in chart.get("selectedMetrics", ())}
        assert used <= known
        assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == {
            view["compareRunSections"][0]["uuid"]
        }
    first = [chart.get("metricKey") for chart in views["Accuracy and size (smoke)"]["compareRunCharts"]]
    assert first[:3] == ["test/accuracy", "convergence/examples_to_target", "params/total"]
    assert views["Convergence (smoke)"]["compareRunCharts"][0]["metricKey"] == "val/accuracy"


def test_saved_views_are_written_once_and_again_when_someone_changed_them(tracked: Tracked) -> None:
    def tags() -> dict[str, str]:
        return dict(tracked.client.get_experiment_by_name(f"nin-ablations/{tracked.study.name}").tags)

    before = tags()
    tracked.open().close("FINISHED")
    assert tags() == before
    experiment = tracked.client.get_experiment_by_name(f"nin-ablations/{tracked.study.name}")
    tracked.client.set_experiment_tag(experiment.experiment_id, "mlflow.sharedViewState.smoke", "broken")
    tracked.open().close("FINISHED")
    assert tracking.is_same_view(tags()["mlflow.sharedViewState.smoke"], before["mlflow.sharedViewState.smoke"])


def test_a_second_call_logs_nothing_twice(done: Tracked) -> None:
    records = [record_of(run, test_accuracy=0.5 + run.seed / 10) for run in done.runs(seeds=3)]
    before = done.everything()
    done.track(records, done.results / "files")
    assert done.everything() == before


# When a study goes on, or goes wrong


def test_a_missed_target_is_all_examples_seen_and_not_reached(tracked: Tracked) -> None:
    tracked.track([record_of(tracked.runs()[0], test_accuracy=0.4)])
    metrics = tracked.one("seed").data.metrics
    assert (metrics["convergence/examples_to_target"], metrics["convergence/reached"]) == (1024, 0)


def test_a_diverged_run_is_not_the_faster_for_it(tracked: Tracked) -> None:
    record = record_of(tracked.runs()[0], test_accuracy=0.1)
    diverged = replace(record, status="diverged", curve=record.curve[:1], examples_seen=record.curve[0].examples)
    tracked.track([diverged])
    images = tracked.one("seed").data.metrics["convergence/examples_to_target"]
    assert images == diverged.examples_given > diverged.examples_seen


def test_names_that_mlflow_refuses_and_more_metrics_than_it_takes_at_once_are_logged(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablations.tracking.mlflow_log.BATCH", 3)
    named = replace(
        tracked.study, variants={**tracked.study.variants, "3x3@2x (params)": Variant(model={"width": 0.5})}
    )
    tracked = replace(tracked, study=named)
    tracked.track([record_of(run, test_accuracy=0.6) for run in tracked.runs(seeds=1)])
    assert tracked.warnings == []
    assert tracked.one("study").data.metrics["test_accuracy/3x3 2x  params "] == pytest.approx(0.6)
    seed = tracked.one("seed", variant="3x3@2x (params)")
    assert seed.data.metrics.keys() >= FINALS
    assert [len(tracked.curve(seed, key)) for key in CURVES] == [4] * len(CURVES)


def test_means_are_made_anew_when_a_seed_is_added(tracked: Tracked) -> None:
    runs = [run for run in tracked.runs(seeds=2) if run.variant == "max"]
    records = [record_of(run, test_accuracy=each) for run, each in zip(runs, [0.6, 0.8], strict=True)]
    tracked.track(records[:1])
    assert tracked.one("variant").data.metrics["test/accuracy"] == pytest.approx(0.6)
    tracked.track(records)
    variant = tracked.one("variant")
    assert tracked.curve(variant, "test/accuracy") == [(0, pytest.approx(0.7))]
    assert len(tracked.curve(variant, "val/accuracy")) == 4
    assert {run.data.tags["mlflow.parentRunId"] for run in tracked.logged("seed")} == {variant.info.run_id}


def test_a_run_that_was_trained_again_on_other_data_takes_the_place_of_the_old_one(tracked: Tracked) -> None:
    run = tracked.runs(seeds=1)[0]
    tracked.track([record_of(run, test_accuracy=0.5, data_checksum="1" * 64)])
    tracked.track([record_of(run, test_accuracy=0.7, data_checksum="2" * 64, started_at="2026-01-02T00:00:00+00:00")])
    assert tracked.one("seed").data.metrics["test/accuracy"] == 0.7
    assert tracked.one("variant").data.metrics["test/accuracy"] == 0.7


def test_a_run_that_was_trained_again_in_another_precision_takes_the_place_of_the_old_one(tracked: Tracked) -> None:
    run, later = tracked.runs(seeds=1)[0], "2026-01-02T00:00:00+00:00"
    tracked.track([record_of(run, test_accuracy=0.5, environment={"precision": "bf16"})])
    tracked.track([record_of(run, test_accuracy=0.7, environment={"precision": "float32"}, started_at=later)])
    assert tracked.one("seed").data.metrics["test/accuracy"] == 0.7
    assert tracked.one("seed").data.tags["precision"] == "float32"


def test_what_was_changed_in_every_run_makes_other_variants(tracked: Tracked) -> None:
    changed = ["train.lr=0.001"]
    tracked.track(record_of(run, test_accuracy=0.8) for run in tracked.runs())
    tracked.track((record_of(run, test_accuracy=0.4) for run in tracked.runs(overrides=changed)), overrides=changed)
    own, others = tracked.logged("variant", variant="max")
    assert own.data.metrics["test/accuracy"] == pytest.approx(0.8)
    assert others.data.metrics["test/accuracy"] == pytest.approx(0.4)
    assert own.info.run_name == others.info.run_name == "max"
    assert "set" not in own.data.tags
    assert others.data.tags["set"] == "train.lr=0.001"
    assert others.data.tags["mlflow.note.content"] == "`--set train.lr=0.001`"
    plain, changed_study = tracked.logged("study")
    names = [run.info.run_name for run in (plain, changed_study)]
    assert names == [f"{tracked.study.name} smoke{changes}" for changes in ("", " train.lr=0.001")]
    assert plain.data.metrics["test_accuracy/max"] == pytest.approx(0.8)
    assert changed_study.data.metrics["test_accuracy/max"] == pytest.approx(0.4)
    for variant, parent in ((own, plain), (others, changed_study)):
        assert variant.data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_a_studys_means_are_the_latest_and_not_the_highest(tracked: Tracked) -> None:
    run = tracked.runs(seeds=1)[0]
    for accuracy, day in ((0.8, 1), (0.6, 2)):
        record = record_of(run, test_accuracy=accuracy, data_checksum=str(day) * 64)
        tracked.track([replace(record, started_at=f"2026-01-0{day}T00:00:00+00:00")])
    assert tracked.one("study").data.metrics["test_accuracy/average"] == pytest.approx(0.6)


def test_a_run_is_seen_while_it_trains(tracked: Tracked) -> None:
    record = record_of(tracked.runs()[0])
    tracker = tracked.open()
    tracker.run_started(record.run)
    tracker.run_progressed(record.run, record.curve[0])
    until(lambda: any("val/accuracy" in run.data.metrics for run in tracked.logged("seed")))
    logged = tracked.one("seed")
    assert (logged.info.status, logged.data.tags["status"]) == ("RUNNING", "running")
    assert tracked.one("variant").info.status == tracked.one("study").info.status == "RUNNING"
    tracker.close("KILLED")


def test_closing_leaves_nothing_running(tracked: Tracked) -> None:
    tracker = tracked.open()
    for run in tracked.runs():
        tracker.run_started(run)
    tracker.close("KILLED")
    logged = [run for level in LEVELS for run in tracked.logged(level)]
    assert [run.info.status for run in logged] == ["KILLED"] * 7
    assert {run.data.tags["status"] for run in tracked.logged("seed")} == {"interrupted"}


def test_what_was_interrupted_after_its_last_run_is_finished_by_the_next_command(tracked: Tracked) -> None:
    records = [record_of(run) for run in tracked.runs()]
    tracker = tracked.open()
    for record in records:
        tracker.run_started(record.run)
        tracker.run_ended(record)
    tracker.close("KILLED")
    assert tracked.one("study").info.status == "KILLED"
    tracker = tracked.open()
    tracker.sync(records)
    tracker.close("FINISHED")
    assert {run.info.status for level in LEVELS for run in tracked.logged(level)} == {"FINISHED"}


@pytest.mark.parametrize("status", ["diverged", "collapsed"])
def test_a_training_that_went_wrong_is_a_result(tracked: Tracked, status: str) -> None:
    record = record_of(tracked.runs()[0], status=status, test_loss=math.nan)
    broken = replace(record.curve[-1], train_loss=math.inf, val_loss=math.nan)
    tracked.track([replace(record, curve=[*record.curve[:-1], broken])])
    logged = tracked.one("seed")
    assert (logged.info.status, logged.data.tags["status"]) == ("FINISHED", status)
    assert [step for step, _ in tracked.curve(logged, "train/loss")] == [256, 512, 768]
    assert [step for step, _ in tracked.curve(logged, "train/accuracy")] == [256, 512, 768, 1024]
    assert "test/loss" not in logged.data.metrics.keys() | tracked.one("variant").data.metrics.keys()


def test_a_failed_run_says_why_and_its_next_try_takes_its_place(tracked: Tracked) -> None:
    run = tracked.runs()[0]
    failed = record_of(run, status="failed", error="at postgresql://me:secret@host/db", curve=[], started_at="")
    tracked.track([failed])
    logged = tracked.one("seed")
    assert (logged.info.status, logged.data.tags["status"]) == ("FAILED", "failed")
    assert logged.data.tags["error"] == "at postgresql://***@host/db"
    tracked.track([failed])
    assert tracked.one("seed").info.status == "FAILED"
    tracked.track([record_of(run)])
    assert tracked.one("seed").info.status == "FINISHED"


def test_sync_logs_whole_runs_from_their_records(tracked: Tracked) -> None:
    record = record_of(tracked.runs()[0])
    tracker = tracked.open()
    tracker.sync([record])
    tracker.close("FINISHED")
    logged = tracked.one("seed")
    assert [step for step, _ in tracked.curve(logged, "val/loss")] == [256, 512, 768, 1024]
    assert logged.data.metrics.keys() == {*CURVES, *FINALS}
    assert logged.info.end_time - logged.info.start_time == 2500
    assert logged.info.status == "FINISHED"


def test_what_was_deleted_by_hand_comes_back_in_its_place(tracked: Tracked) -> None:
    records = [record_of(run) for run in tracked.runs()]
    tracked.track(records)
    for run in (tracked.one("study"), tracked.one("variant", variant="max"), tracked.logged("seed")[0]):
        tracked.client.delete_run(run.info.run_id)
    tracked.track(records)
    parent = tracked.one("study")
    variants = {run.info.run_id for run in tracked.logged("variant")}
    assert {run.data.tags["mlflow.parentRunId"] for run in tracked.logged("variant")} == {parent.info.run_id}
    assert {run.data.tags["mlflow.parentRunId"] for run in tracked.logged("seed")} == variants
    assert [len(tracked.logged(level)) for level in LEVELS] == [1, 2, 4]


@pytest.mark.parametrize(
    ("uri", "lines"),
    [
        (
            None,
            [
                "MLflow:  MLFLOW_TRACKING_URI='sqlite:///{results}/mlflow.db' make ui, then",
                "         http://127.0.0.1:5000/{view}",
            ],
        ),
        ("sqlite:///results/mlflow.db", ["MLflow:  make ui, then", "         http://127.0.0.1:5000/{view}"]),
        ("http://me:secret@host:5000/", ["MLflow:  http://host:5000/{view}"]),
        ("http://host:5000/?token=secret", ["MLflow:  http://host:5000/?token=***/{view}"]),
    ],
)
def test_links_lead_to_a_saved_view_of_the_variants(tracked: Tracked, uri: str | None, lines: list[str]) -> None:
    tracker = tracking.MlflowTracker(f"sqlite:///{tracked.results}/mlflow.db", tracked.results, tracked.study, "smoke")
    tracker._uri = uri or tracker._uri
    view = f"#/experiments/{tracker._experiment}/runs?viewStateShareKey=smoke"
    assert tracker.links() == [line.format(results=tracked.results, view=view) for line in lines]
    assert len(tracker.links()[-1]) <= 80 or "token" in str(uri)
    assert "mlflow.sharedViewState.smoke" in tracker._client.get_experiment(tracker._experiment).tags


def test_where_there_is_no_makefile_the_installed_command_is_named(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As beside an installed package, or a study outside the clone."""
    uri = f"sqlite:///{tracked.results}/mlflow.db"
    tracker = tracking.MlflowTracker(uri, tracked.results, tracked.study, "smoke")
    monkeypatch.chdir(tracked.results)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    assert tracker.links()[0] == f"MLflow:  MLFLOW_TRACKING_URI='{uri}' nin-ablations ui, then"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_link_opens_a_saved_view_in_a_browser(done: Tracked, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tracker = tracking.MlflowTracker(f"sqlite:///{done.results}/mlflow.db", done.results, done.study, "smoke")
    link = tracker.links()[-1].strip().replace(tracking.UI, f"http://127.0.0.1:{port}")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [str(CHROMIUM), *options, "--virtual-time-budget=60000", "--window-size=1500,1000", "--dump-dom"]
    with server(tmp_path, port, f"sqlite:///{done.results}/mlflow.db"):
        page = subprocess.run(
            [*command, f"{link}&compareRunsMode=CHART"], capture_output=True, text=True, timeout=200, check=True
        ).stdout
    text = re.sub(r"<(script|style).*?</\1>|<.*?>", " ", page, flags=re.DOTALL)
    assert "Accuracy and size (smoke)" in text
    assert re.search(r"\b2\s+matching runs", text)
    places = [text.index(name) for name in ("test/accuracy", "convergence/examples_to_target", "params/total")]
    assert places == sorted(places)


def test_trials_that_mlflow_lacks_are_logged_in_the_end(tracked: Tracked) -> None:
    trial = replace(tracked.runs(1)[0], seed=1000, trial=7)
    tracker = tracked.open()
    tracker.sync(
        [record_of(trial, "collapsed", test_accuracy=0.1, wall_seconds=math.nan)]
    )  # as of a run that has paused
    tracker.close("FINISHED")
    logged = tracked.one("seed")
    assert (logged.data.tags["trial"], logged.data.tags["status"]) == ("7", "collapsed")
    assert logged.info.end_time - logged.info.start_time == 2000
    assert tracked.one("variant").data.metrics == {}  # a trial is no result, of which there would be a mean
