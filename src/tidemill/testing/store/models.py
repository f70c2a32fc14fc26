"""The model registry."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tidemill.domain.errors import NotFound
from tidemill.domain.model import Environment
from tidemill.ports.store import Store
from tidemill.testing.store.factories import new_version
from tidemill.testing.store.suite import StoreSuite


class ModelsSuite(StoreSuite):
    """Versions are numbered without gaps and never change; aliases move."""

    def test_a_version_is_kept_as_it_was_given(self, store: Store, open_store: Callable[..., Store]) -> None:
        given = new_version(environment=Environment(requirements="scikit-learn==1.9\n"), carries_code=True)
        added = store.models.add_version(given)
        assert added == replace(given, version=1)
        assert open_store().models.get("default", "churn", "1") == added
        bare = new_version("bare", signature=None, preload=())
        assert store.models.add_version(bare) == replace(bare, version=1)

    def test_versions_count_up_for_each_name_of_each_tenant(self, store: Store) -> None:
        added = [
            store.models.add_version(new_version(name, tenant=tenant, digest=digest * 64))
            for tenant, name, digest in [
                ("default", "churn", "a"),
                ("default", "churn", "b"),
                ("default", "value", "b"),
                ("acme", "churn", "b"),
                ("default", "churn", "a"),
            ]
        ]
        assert [version.version for version in added] == [1, 2, 1, 1, 3]

    def test_the_newest_digest_is_not_stored_twice(self, store: Store) -> None:
        first = store.models.add_version(new_version())
        again = new_version(description="again", created_by="bob", created_at=datetime(2026, 6, 1, tzinfo=UTC))
        assert store.models.add_version(again) == first
        elsewhere = replace(again, environment=Environment(python="/opt/py/bin/python"))
        assert store.models.add_version(elsewhere).version == 2
        assert [version.version for version in store.models.list_versions("default", "churn")] == [2, 1]

    def test_threads_that_add_leave_no_gap(self, store: Store) -> None:
        def add(number: int) -> int:
            return store.models.add_version(new_version(digest=f"{number:064d}")).version

        with ThreadPoolExecutor(6) as pool:
            assert sorted(pool.map(add, range(18))) == list(range(1, 19))

    def test_get_by_number_alias_or_latest(self, store: Store) -> None:
        for digest in "abc":
            store.models.add_version(new_version(digest=digest * 64))
        store.models.move_alias("default", "churn", "champion", 2)
        store.models.move_alias("default", "churn", "best", 2)
        assert store.models.get("default", "churn", "latest").digest == "c" * 64
        champion = store.models.get("default", "churn", "champion")
        assert (champion.version, champion.digest, champion.aliases) == (2, "b" * 64, ("best", "champion"))
        assert store.models.get("default", "churn", "1").aliases == ()

    @pytest.mark.parametrize(
        ("name", "which", "says"),
        [
            ("churn", "champoin", "Did you mean 'champion'?"),
            ("churn", "4", "versions 1 to 1"),
            ("churn", "0", "versions 1 to 1"),
            ("churn", "9" * 30, "latest, champion"),
            ("chrun", "latest", "Did you mean 'churn'?"),
            ("chrun", "champion", "Did you mean 'churn'?"),
            ("zzz", "1", "tidemill models list"),
        ],
    )
    def test_what_is_not_there_is_named(self, store: Store, name: str, which: str, says: str) -> None:
        store.models.add_version(new_version())
        store.models.move_alias("default", "churn", "champion", 1)
        with pytest.raises(NotFound) as caught:
            store.models.get("default", name, which)
        assert says in (caught.value.remedy or "")

    def test_tenants_do_not_see_each_other(self, store: Store) -> None:
        store.models.add_version(new_version())
        store.models.move_alias("default", "churn", "champion", 1)
        for call in (
            lambda: store.models.get("acme", "churn", "latest"),
            lambda: store.models.get("acme", "churn", "1"),
            lambda: store.models.get("acme", "churn", "champion"),
            lambda: store.models.list_versions("acme", "churn"),
            lambda: store.models.move_alias("acme", "churn", "champion", 1),
            lambda: store.models.move_alias("acme", "churn", "champion", None),
            lambda: store.models.set_signature("acme", "churn", 1, {}),
            lambda: store.models.limit_running("acme", "churn", 1),
        ):
            with pytest.raises(NotFound) as caught:
                call()
            assert "Did you mean" not in (caught.value.remedy or "")
        assert store.models.list_names("acme") == []

    def test_aliases_move(self, store: Store) -> None:
        for digest in "ab":
            store.models.add_version(new_version(digest=digest * 64))
        assert store.models.move_alias("default", "churn", "champion", 1) is None
        assert store.models.move_alias("default", "churn", "champion", 2) == 1
        assert store.models.move_alias("default", "churn", "champion", 2) == 2
        assert store.models.get("default", "churn", "champion").version == 2
        with pytest.raises(NotFound):
            store.models.move_alias("default", "churn", "champion", 3)
        assert store.models.get("default", "churn", "champion").version == 2
        assert store.models.move_alias("default", "churn", "champion", None) == 2
        for _ in range(2):
            with pytest.raises(NotFound):
                store.models.get("default", "churn", "champion")
            with pytest.raises(NotFound):
                store.models.move_alias("default", "churn", "champion", None)

    def test_names_page_with_their_newest_version(self, store: Store) -> None:
        for number, name in enumerate(("b", "a", "B", "c", "a")):
            store.models.add_version(new_version(name, digest=f"{number}" * 64))
        store.models.move_alias("default", "a", "champion", 1)
        store.models.move_alias("default", "a", "next", 2)
        listed = store.models.list_names("default")
        assert [(version.name, version.version) for version in listed] == [("B", 1), ("a", 2), ("b", 1), ("c", 1)]
        assert listed[1].aliases == ("next",)
        assert store.models.list_names("default", limit=2) == listed[:2]
        assert store.models.list_names("default", limit=2, after="a") == listed[2:]
        assert store.models.list_names("default", after="c") == []

    def test_versions_page_newest_first(self, store: Store) -> None:
        for digest in "abc":
            store.models.add_version(new_version(digest=digest * 64))
        first = store.models.list_versions("default", "churn", limit=2)
        assert [version.version for version in first] == [3, 2]
        assert [v.version for v in store.models.list_versions("default", "churn", before=2)] == [1]
        assert store.models.list_versions("default", "churn", before=1) == []
        with pytest.raises(NotFound, match="chrun"):
            store.models.list_versions("default", "chrun")

    def test_a_signature_may_be_learned_later(self, store: Store) -> None:
        store.models.add_version(new_version(signature=None))
        assert not store.models.get("default", "churn", "1").trusted
        store.trust.trust("6" * 64, "churn@1", "ada")
        store.models.set_signature("default", "churn", 1, {"inputs": ["x"]})
        version = store.models.get("default", "churn", "latest")
        assert (version.signature, version.trusted) == ({"inputs": ["x"]}, True)
        with pytest.raises(NotFound):
            store.models.set_signature("default", "churn", 2, {})

    def test_limits_of_models(self, store: Store) -> None:
        store.models.add_version(new_version())
        assert store.models.running_limit("default", "churn") is None
        for most in (3, 1, None):
            store.models.limit_running("default", "churn", most)
            assert store.models.running_limit("default", "churn") == most
        with pytest.raises(NotFound):
            store.models.limit_running("default", "chrun", 1)

    def test_paths_in_use(self, store: Store) -> None:
        assert list(store.models.paths_in_use()) == []
        for tenant, name, digest in (("default", "churn", "a"), ("acme", "value", "b"), ("acme", "other", "c")):
            path = "/models/shared" if name != "churn" else "/models/churn"
            store.models.add_version(new_version(name, tenant=tenant, digest=digest * 64, path=path))
        assert sorted(store.models.paths_in_use()) == ["/models/churn", "/models/shared"]

    def test_requirements_in_use(self, store: Store) -> None:
        assert store.models.requirements_in_use() == set()
        for number, environment in enumerate(
            (
                None,
                Environment(requirements="polars"),
                Environment(requirements="polars"),
                Environment(requirements=""),
                Environment(python="/opt/py/bin/python"),
            )
        ):
            tenant = "acme" if number % 2 else "default"
            store.models.add_version(new_version(f"m{number}", tenant=tenant, environment=environment))
        assert store.models.requirements_in_use() == {"polars", ""}
