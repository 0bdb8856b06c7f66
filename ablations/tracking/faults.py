"""Tell lasting faults of a tracking server or database, which somebody must fix, from outages, which pass."""

from nin.text import redacted

NAME_ANOTHER = "set MLFLOW_TRACKING_URI to a database or an MLflow server"
NO_SERVER = f"what listens there is no MLflow server: {NAME_ANOTHER}"

# A part of the error's text, and what a person can do about the fault. {uri} is where MLflow was expected.
REMEDIES = {
    "out-of-date database schema": "another version of MLflow made it: if an older one, copy it and run "
    "`mlflow db upgrade '{uri}'`; if a newer one, install that",
    "is in maintenance mode": "MLflow no longer stores runs in folders: set MLFLOW_TRACKING_URI to a database, such as "
    "sqlite:///mlflow.db, or MLFLOW_ALLOW_FILE_STORE=true",
    "file is not a database": "move the file away, and a new one is made",
    "disk image is malformed": "the file is damaged: move it away, and a new one is made",
    "unable to open database file": "its folder is missing or not accessible, or the path is a folder",
    "surrogates not allowed": "choose another --results: the folder's name is no text in UTF-8",
    "readonly database": "the file was removed, or you may not write it",
    "unsupported URI": NAME_ANOTHER,
    "Invalid url": NAME_ANOTHER,
    "Could not parse SQLAlchemy URL": NAME_ANOTHER,
    "Can't load plugin": NAME_ANOTHER,
    "Databricks credential": f"{NAME_ANOTHER}, or log in there",
    "No module named": "install the database's Python driver, or name another in MLFLOW_TRACKING_URI",
    "password authentication failed": "set user and password in MLFLOW_TRACKING_URI",
    'FATAL:  database "': "create that database, or name another in MLFLOW_TRACKING_URI",
    "error code 401": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    "PERMISSION_DENIED": "give the logged-in user write access",
    "error code 403": "give the logged-in user write access",
    "error code 404": NO_SERVER,
    "error code 405": NO_SERVER,
    "error code 501": NO_SERVER,
    "'detail': 'Not Found'": NO_SERVER,
    "not in a valid JSON format": NO_SERVER,
    "names no experiment": NO_SERVER,
}
DELETED = "Current state is deleted"  # by somebody, while a run is under way


def outlook(error: Exception, uri: str) -> str:
    """Say what follows the error: for a lasting fault, how to fix it."""
    text = str(error)
    if DELETED in text:
        return "the deleted runs are logged again when the study ends"
    remedy = next((what for sign, what in REMEDIES.items() if sign in text), "")
    if not remedy:
        return "once it can, the same command brings MLflow up to date"
    return f"waiting will not help: {remedy.replace('{uri}', redacted(uri))}; then re-run to update MLflow"
