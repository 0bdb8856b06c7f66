"""Open Optuna's storages, turn their errors into one line, and claim each variant's trials for one driver."""

import logging
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import wraps
from typing import TYPE_CHECKING, Any

from ablations.execution.claims import Lease, Owner
from nin.cli import notice_if_slow
from nin.text import reason, redacted

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

STORAGE_LIBRARIES = ("optuna", "sqlalchemy", "psycopg", "psycopg2", "pymysql", "MySQLdb", "grpc")
GRPC_PORT = 13000  # Optuna's own default
NOTE = "dashboard:note"
MAX_NOTE = 2045  # characters in one piece
TRIES = 5  # to make the tables of a new database, which several drivers may do at once; a second apart


class StorageClaims(Lease):
    """Claims on variants' trials, kept in their own storage: drivers need have nothing else in common.

    A claim is a running trial of an Optuna study of its own. Trials are numbered one after another, whoever adds them, so of all
    claims that have not ended or expired the one with the lowest number holds. A claim expires as those on runs do
    (`ablations.execution.claims`): its owner died on this machine, or shows no sign of life for LEASE by our clock.
    """

    def __init__(self, storage: "BaseStorage", name: str) -> None:
        import optuna

        super().__init__()
        self._claims = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        if f"{NOTE}_ver" not in storage.get_study_system_attrs(self._claims._study_id):
            describe(
                self._claims, "Holds no trials of a search: drivers note here which of them works on which variant."
            )
        self._storage = storage
        self._mine: dict[str, int] = {}  # ids of claims by what is claimed

    def take(self, what: str) -> bool:
        """Claim the trials; False if another driver has them."""
        from optuna.trial import TrialState, create_trial

        if any(not self._is_over(claim) for claim in self._on(what)):
            return False
        token = uuid.uuid4().hex
        attributes = {"claims": what, "token": token, "owner": asdict(self._me), "beat": 0}
        self._claims.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=attributes))
        *earlier, mine = (claim for claim in self._on(what, until=token))
        if any(not self._is_over(claim) for claim in earlier):  # another was faster
            self._end(mine._trial_id)
            return False
        for claim in earlier:
            self._end(claim._trial_id)
        self._mine[what] = mine._trial_id
        return True

    def release(self, what: str) -> None:
        """Release the trials."""
        self._end(self._mine.pop(what))

    def release_all(self) -> None:
        """Release everything; claims that cannot be released expire."""
        with suppress(Exception):
            for what in list(self._mine):
                self.release(what)

    def beat(self, count: int) -> None:
        """Renew the claims by writing the count to their trials."""
        for claim_id in list(self._mine.values()):
            with suppress(Exception):  # the next may get through
                self._storage.set_trial_user_attr(claim_id, "beat", count)

    def _on(self, what: str, until: str = "") -> list["FrozenTrial"]:
        """Claims on it that have not ended, oldest first; none after the one with token `until`."""
        from optuna.trial import TrialState

        claims = self._claims.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        claims = sorted((c for c in claims if c.user_attrs.get("claims") == what), key=lambda claim: claim.number)
        tokens = [claim.user_attrs["token"] for claim in claims]
        return claims[: tokens.index(until) + 1] if until else claims

    def _is_over(self, claim: "FrozenTrial") -> bool:
        return self._has_expired(claim._trial_id, Owner(**claim.user_attrs["owner"]), claim.user_attrs["beat"])

    def _end(self, claim_id: int) -> None:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        with suppress(UpdateFinishedTrialError):  # it had expired
            self._storage.set_trial_state_values(claim_id, TrialState.FAIL)


def describe(study: "Study", note: str, metrics: Sequence[str] = ()) -> None:
    """Give a study the note and the names of objectives that Optuna's dashboard shows."""
    from optuna.exceptions import ExperimentalWarning

    if metrics:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(metrics))
    # As `optuna_dashboard.save_note` has it, whose import takes seconds.
    study._storage.set_study_system_attr(study._study_id, f"{NOTE}_str:0", note[:MAX_NOTE])
    study._storage.set_study_system_attr(study._study_id, f"{NOTE}_ver", 1)


@contextmanager
def one_line_errors(url: str, consequence: str) -> Iterator[None]:
    """Turn any storage library's error into a ValueError of one line; `consequence` says what it means."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in STORAGE_LIBRARIES:
            raise
        cause = error.__cause__ or error.__context__
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):  # in the middle of a commit, which then fails for that
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        raise _in_one_line(url, error, consequence) from error


def require_url(url: str) -> None:
    """Raise ValueError unless the text is empty, "journal:FILE", "grpc://HOST:PORT", or the URL of a database with a driver here.

    Connects to nothing.
    """
    if not url or url.startswith("journal:"):
        return
    if url.startswith("grpc://"):
        _host_and_port(url)
        return

    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
        parsed.get_dialect().import_dbapi()
    except ImportError as error:  # of the database's driver
        raise _in_one_line(url, error, "nothing in it was changed") from error
    except (ArgumentError, ValueError) as error:  # the second of a port
        raise ValueError(
            f"--storage {redacted(url)}: must be a database URL such as sqlite:///trials.db, journal:FILE or grpc://HOST:PORT"
        ) from error
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ValueError(
            f"--storage {url}: a database in memory ends with the command; name a file, as in sqlite:///trials.db"
        )


def open_storage(url: str) -> "BaseStorage":
    """Open a database URL, "journal:FILE" or "grpc://HOST:PORT". Raises ValueError, in one line, if it cannot be used."""
    require_url(url)
    try:
        return _with_wait_notices(_opened(url), f"trials at {url}")
    except ValueError:
        raise
    except Exception as error:  # of whichever library
        raise _in_one_line(url, error, "nothing in it was changed") from error


def _in_one_line(url: str, error: Exception, consequence: str) -> ValueError:
    return ValueError(f"--storage {redacted(url)}: cannot be used ({reason(error)}); {consequence}")


def _opened(url: str) -> "BaseStorage":
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import GrpcStorageProxy, JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if url.startswith("journal:"):
        return JournalStorage(JournalFileBackend(url.removeprefix("journal:")))
    if not url.startswith("grpc://"):
        return _database(url)
    host, port = _host_and_port(url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        proxy = GrpcStorageProxy(host=host, port=port)
    proxy.get_all_studies()  # asks whether it is there
    return proxy


def _host_and_port(url: str) -> tuple[str, int]:
    """Split grpc://HOST:PORT; the port may be missing. Raises ValueError for anything else."""
    host, _, port = url.removeprefix("grpc://").partition(":")
    if not host or not (port or str(GRPC_PORT)).isdigit():
        raise ValueError(f"--storage {url!r}: must be grpc://HOST:PORT")
    return host, int(port or GRPC_PORT)


def _with_wait_notices(storage: "BaseStorage", name: str) -> "BaseStorage":
    """Make the storage's calls print what they wait for when they take long: a database may stop answering at any moment.

    Only in the main thread, which people wait for. A call inside another call prints nothing of its own.
    """
    from optuna.storages import BaseStorage

    is_waiting = False

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def watched(*args: Any, **kwargs: Any) -> Any:
            nonlocal is_waiting
            if is_waiting or threading.current_thread() is not threading.main_thread():
                return call(*args, **kwargs)
            is_waiting = True
            try:
                with notice_if_slow(name):
                    return call(*args, **kwargs)
            finally:
                is_waiting = False

        return watched

    for method in BaseStorage.__abstractmethods__:
        setattr(storage, method, wrapped(getattr(storage, method)))
    return storage


def _database(url: str) -> "BaseStorage":
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("psycopg").setLevel(
        logging.CRITICAL
    )  # it logs that a server does not answer, which is said anyhow
    for tries_left in reversed(range(TRIES)):
        try:
            return RDBStorage(url)
        except SQLAlchemyError as error:
            if not tries_left or "already exists" not in str(error):  # a table that another driver has just made
                raise
        time.sleep(1)
    raise AssertionError("the last try returns or raises")
