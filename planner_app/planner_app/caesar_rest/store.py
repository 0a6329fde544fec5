"""The documents: USER.files, USER.jobs, USER.accounting and appstats, with the fields that caesar-rest has."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymongo
from pymongo.database import Database
from pymongo.errors import PyMongoError

from planner_app.caesar_rest.states import LIVE

DATABASE = "caesardb"
Document = dict[str, Any]


class StoreDown(Exception):
    """The database does not do what it was asked; the message holds no secret."""


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except PyMongoError as error:
        # A driver's message goes on with the whole topology.
        raise StoreDown(str(error).split(", Timeout:")[0].split(" (configured")[0]) from None


class Store:
    """All that is kept."""

    def __init__(self, address: str, timeout_ms: int) -> None:
        """Connect when first asked. `address` is a whole one, password included."""
        client: pymongo.MongoClient[Document] = pymongo.MongoClient(
            address, serverSelectionTimeoutMS=timeout_ms, connectTimeoutMS=timeout_ms, socketTimeoutMS=2 * timeout_ms
        )
        self._database: Database[Document] = client[DATABASE]

    @classmethod
    def of_file(cls, path: str, timeout_ms: int) -> "Store":
        """Read the address from a file: a whole one, or USER:PASSWORD@HOST."""
        address = Path(path).read_text(encoding="utf-8").strip()
        return cls(address if "://" in address else f"mongodb://{address}:27017/{DATABASE}", timeout_ms)

    def add_file(self, user: str, document: Document) -> None:
        """Keep a file's document."""
        with _told():
            self._database[f"{user}.files"].insert_one(dict(document))

    def files(self, user: str) -> list[Document]:
        """List a user's files, without where they lie."""
        with _told():
            return list(self._database[f"{user}.files"].find({}, projection={"_id": 0, "filepath": 0}))

    def file(self, user: str, number: str) -> Document | None:
        """Find a file."""
        with _told():
            return self._database[f"{user}.files"].find_one({"fileid": number})

    def forget_file(self, user: str, number: str) -> bool:
        """Delete a file's document; tell whether there was one."""
        with _told():
            return self._database[f"{user}.files"].delete_one({"fileid": number}).deleted_count > 0

    def add_job(self, user: str, document: Document) -> None:
        """Keep a job's document."""
        with _told():
            self._database[f"{user}.jobs"].insert_one(dict(document))

    def jobs(self, user: str) -> list[Document]:
        """List a user's jobs."""
        with _told():
            return list(self._database[f"{user}.jobs"].find({}, projection={"_id": 0}))

    def job(self, user: str, number: str) -> Document | None:
        """Find a job."""
        with _told():
            return self._database[f"{user}.jobs"].find_one({"job_id": number})

    def change_job(self, collection: str, number: str, **fields: Any) -> None:
        """Set fields of a job."""
        with _told():
            self._database[collection].update_one({"job_id": number}, {"$set": fields}, upsert=False)

    def keep(self, collection: str, document: Document) -> None:
        """Put a document in the place of the only one of its collection."""
        with _told():
            former = self._database[collection].find_one()
            if former is None:
                self._database[collection].insert_one(dict(document))
            else:
                self._database[collection].update_one({"_id": former["_id"]}, {"$set": document}, upsert=False)

    def only(self, collection: str) -> Document | None:
        """Find the only document of a collection."""
        with _told():
            return self._database[collection].find_one({}, projection={"_id": 0})

    def live(self) -> Iterator[tuple[str, list[Document]]]:
        """Go through the collections of jobs, with those of them that may still change."""
        with _told():
            names = self._database.list_collection_names(filter={"name": {"$regex": r"\.jobs$"}})
        for name in names:
            with _told():
                found = list(self._database[name].find({"$or": [{"state": state} for state in LIVE]}))
            yield name, found
