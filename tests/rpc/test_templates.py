"""TemplateService: what a template may say, who uses it, what a change of it reaches."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC
from typing import Any

import pytest
from sandbox.session.v1 import session_pb2, template_pb2
from sandbox_rpc.errors import InvalidParameter, NotFound, StateConflict
from session_svc.template_store import TemplateStore

from tests.rpc.conftest import MakeWorld
from tests.rpc.doubles import AwaitedExecutors
from tests.rpc.world import World, refusal, word
from tests.support import only

MINIMUM: dict[str, Any] = {"name": "A template", "image": "an/image", "default_resources": {}}


class Templates:
    """The calls, as an operator makes them."""

    def __init__(self, world: World) -> None:
        self._stub = world.templates
        self._metadata = world.keys.as_user()

    async def create(self, template_id: str = "mine", **fields: Any) -> template_pb2.Template:
        template = template_pb2.Template(**{"id": template_id, **MINIMUM, **fields})
        request = template_pb2.CreateTemplateRequest(template=template)
        return await self._stub.CreateTemplate(request, metadata=self._metadata)

    async def get(self, template_id: str = "mine") -> template_pb2.Template:
        request = template_pb2.GetTemplateRequest(template_id=template_id)
        return await self._stub.GetTemplate(request, metadata=self._metadata)

    async def list(self, **query: Any) -> template_pb2.ListTemplatesResponse:
        request = template_pb2.ListTemplatesRequest(**query)
        return await self._stub.ListTemplates(request, metadata=self._metadata)

    async def update(self, template_id: str = "mine", **fields: Any) -> template_pb2.Template:
        template = template_pb2.Template(**{**MINIMUM, **fields})
        request = template_pb2.UpdateTemplateRequest(template_id=template_id, template=template)
        return await self._stub.UpdateTemplate(request, metadata=self._metadata)

    async def delete(self, template_id: str = "mine") -> None:
        request = template_pb2.DeleteTemplateRequest(template_id=template_id)
        await self._stub.DeleteTemplate(request, metadata=self._metadata)


@pytest.fixture
def templates(world: World) -> Templates:
    return Templates(world)


async def test_the_seeds_are_there_from_the_start(templates: Templates) -> None:
    found = await templates.list()
    assert [template.id for template in found.templates] == ["python-basic", "python-datascience"]
    assert found.total == 2
    basic, data = found.templates
    assert list(basic.pre_installed_packages) == []
    names = [re.split("[<>=]", text)[0] for text in data.pre_installed_packages]
    assert names == ["numpy", "pandas", "scipy", "scikit-learn", "matplotlib"]
    assert (await templates.update(data.id, **_fields(data))).name == data.name
    for template in (basic, data):
        assert template.created_at.ToDatetime(tzinfo=UTC).year > 2000


def _fields(template: template_pb2.Template) -> dict[str, Any]:
    return {field.name: value for field, value in template.ListFields()}


async def test_a_seed_that_an_operator_changed_or_removed_stays_so(
    world: World, templates: Templates
) -> None:
    await templates.update("python-datascience", name="Ours")
    await templates.delete("python-basic")
    await world.restart()

    found = await Templates(world).list()
    assert [(template.id, template.name) for template in found.templates] == [
        ("python-datascience", "Ours")
    ]


async def test_absent_fields_take_their_defaults(world: World, templates: Templates) -> None:
    made = await templates.create()

    assert made == await templates.get()
    assert (made.id, made.name, made.image) == ("mine", "A template", "an/image")
    assert not made.HasField("base_image")
    assert not made.HasField("runtime_type")
    assert made.HasField("warm_pool_size")
    assert made.warm_pool_size == 0
    resources, security = made.default_resources, made.security_context
    assert (resources.cpu, resources.memory, resources.disk) == ("1", "512Mi", "1Gi")
    assert resources.max_processes == 128
    assert security.HasField("network_enabled")
    assert (security.network_enabled, security.run_as_user) == (False, 1000)
    assert not security.HasField("max_processes")
    assert made.created_at == made.updated_at
    assert made.created_at.ToDatetime(tzinfo=UTC) == world.clock.now()


FULL: dict[str, Any] = {
    "name": "ö" * 64,
    "image": "registry.example/an/image@sha256:00",
    "base_image": "python:3.11-slim",
    "pre_installed_packages": ["numpy>=1.26,<3", 'requests[socks]==2.*; python_version > "3.8"'],
    "default_resources": {"cpu": "4", "memory": "8Gi", "disk": "50Gi", "max_processes": 32},
    "security_context": {"network_enabled": True, "max_processes": 32, "run_as_user": 65533},
    "runtime_type": session_pb2.RuntimeType.docker,
    "warm_pool_size": 100,
    "env_vars": {"A": "ä\n"},
}


async def test_every_field_comes_back_as_it_went_in(world: World, templates: Templates) -> None:
    made = await templates.create("A.b_c-9" + "x" * 56, **FULL)
    expected = template_pb2.Template(id=made.id, **FULL)
    for stamp in (expected.created_at, expected.updated_at):
        stamp.FromDatetime(world.clock.now())
    assert made == expected
    assert await templates.get(made.id) == expected


async def test_an_update_replaces_everything_but_the_age(
    world: World, templates: Templates
) -> None:
    made = await templates.create(**FULL)
    world.clock.advance(60)
    replaced = await templates.update(name="Other")

    assert await templates.get() == replaced
    assert replaced.name == "Other"
    assert not replaced.HasField("base_image")
    assert list(replaced.pre_installed_packages) == []
    assert dict(replaced.env_vars) == {}
    assert replaced.default_resources.memory == "512Mi"
    assert replaced.created_at == made.created_at
    assert replaced.updated_at.ToDatetime(tzinfo=UTC) == world.clock.now()
    assert await templates.update("mine", id="mine", name="Other") == replaced


async def test_the_edge_is_told_the_success(world: World) -> None:
    template = template_pb2.Template(id="mine", **MINIMUM)
    metadata = world.keys.as_user()
    create = world.templates.CreateTemplate(
        template_pb2.CreateTemplateRequest(template=template), metadata=metadata
    )
    await create
    assert dict(await create.initial_metadata())["x-http-code"] == "201"
    assert dict(await create.initial_metadata())["location"] == "/api/v1/templates/mine"
    delete = world.templates.DeleteTemplate(
        template_pb2.DeleteTemplateRequest(template_id="mine"), metadata=metadata
    )
    await delete
    assert dict(await delete.initial_metadata())["x-http-code"] == "204"


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"id": ""}, "Field 'id' is required"),
        ({"id": "a/b"}, "Field 'id' must be 1 to 63 letters"),
        ({"id": "-a"}, "Field 'id' must be 1 to 63 letters"),
        ({"id": "a" * 64}, "Field 'id' must be 1 to 63 letters"),
        ({"name": " "}, "Field 'name' is required"),
        ({"name": "x" * 129}, "Field 'name' must have at most 128 bytes"),
        ({"name": "a\0"}, "Field 'name' must not hold a NUL"),
        ({"image": ""}, "Field 'image' is required"),
        ({"image": "a b"}, "Field 'image' must be 1 to 512 visible"),
        ({"image": "x" * 513}, "Field 'image' must be 1 to 512 visible"),
        ({"base_image": ""}, "Field 'base_image' must be 1 to 512 visible"),
        ({"default_resources": None}, "Field 'default_resources' is required"),
        ({"default_resources": {"cpu": "5"}}, "Field 'default_resources.cpu' .* from 0.5 to 4"),
        ({"default_resources": {"memory": "1"}}, "Field 'default_resources.memory' .* 256Mi"),
        ({"default_resources": {"disk": "1Mi"}}, "Field 'default_resources.disk' .* 1Gi"),
        ({"default_resources": {"max_processes": 31}}, "'default_resources.max_processes' .* 32"),
        ({"security_context": {"max_processes": 31}}, "'security_context.max_processes' .* 32"),
        (
            {
                "security_context": {"max_processes": 64},
                "default_resources": {"max_processes": 65},
            },
            "'default_resources.max_processes' must be at most 64",
        ),
        ({"security_context": {"run_as_user": 0}}, "'security_context.run_as_user' .* 1 and 65533"),
        ({"security_context": {"run_as_user": 65534}}, "'security_context.run_as_user'"),
        ({"runtime_type": 0}, "Field 'runtime_type' must be one of process, docker, kubernetes"),
        ({"runtime_type": 9}, "Field 'runtime_type' must be one of process, docker, kubernetes"),
        ({"warm_pool_size": -1}, "Field 'warm_pool_size' must be between 0 and 100"),
        ({"warm_pool_size": 101}, "Field 'warm_pool_size' must be between 0 and 100"),
        ({"env_vars": {"1": ""}}, "Field 'env_vars' must have names"),
        ({"pre_installed_packages": ["a"] * 65}, "'pre_installed_packages' .* at most 64 entries"),
        ({"pre_installed_packages": ["a", "-r x"]}, r"Field 'pre_installed_packages\[1\]'"),
    ],
)
async def test_a_value_out_of_range_is_named_with_its_limit(
    templates: Templates, fields: dict[str, Any], detail: str
) -> None:
    error = await refusal(templates.create(**{"template_id": fields.pop("id", "mine"), **fields}))
    assert isinstance(error, InvalidParameter)
    assert re.search(detail, error.detail), error.detail
    assert (await templates.list()).total == 2


async def test_an_id_is_taken_once(templates: Templates) -> None:
    tries = await asyncio.gather(
        *(templates.create(name=str(n)) for n in range(5)), return_exceptions=True
    )
    assert sum(isinstance(each, template_pb2.Template) for each in tries) == 1
    error = await refusal(templates.create("python-basic"))
    assert isinstance(error, StateConflict)
    assert error.detail == "Template 'python-basic' exists already"


@pytest.mark.parametrize("template_id", ["none", "../x", "x" * 64, "", "é", "a\0"])
async def test_an_unknown_template_is_not_found(templates: Templates, template_id: str) -> None:
    for call in (templates.get, templates.update, templates.delete):
        error = await refusal(call(template_id))
        assert isinstance(error, NotFound)
        assert error.error_code == "Sandbox.TemplateNotFound"


async def test_an_update_cannot_rename(templates: Templates) -> None:
    await templates.create()
    error = await refusal(templates.update("mine", id="other"))
    assert isinstance(error, InvalidParameter)
    assert "Field 'id' must be 'mine'" in error.detail


async def test_lists_are_paged_by_id(templates: Templates) -> None:
    await templates.create("zz")
    await templates.create("aa")
    page = await templates.list(limit=2, offset=1)
    assert [template.id for template in page.templates] == ["python-basic", "python-datascience"]
    assert page.total == 4
    for query, field in (({"limit": 0}, "limit"), ({"limit": 201}, "limit"), ({"offset": -1}, "o")):
        error = await refusal(templates.list(**query))
        assert isinstance(error, InvalidParameter)
        assert error.detail.startswith(f"Field '{field}")


async def test_a_template_in_use_stays(make_world: MakeWorld) -> None:
    executors = AwaitedExecutors()
    world = await make_world(executors=executors)
    templates = Templates(world)
    await templates.create()
    creating = await world.create(template_id="mine", wait=False)
    error = await refusal(templates.delete())
    assert isinstance(error, StateConflict)
    assert error.detail == "Template 'mine' is used by 1 live sessions"

    executors.come.set()
    await world.becomes(creating.session_id, "running")
    assert isinstance(await refusal(templates.delete()), StateConflict)

    await world.delete(creating.session_id)
    await templates.delete()
    assert isinstance(await refusal(templates.get()), NotFound)
    assert isinstance(await refusal(world.create(template_id="mine")), NotFound)
    assert (await world.get(creating.session_id)).template_id == "mine"


async def test_a_key_is_answered_though_the_template_is_gone(
    world: World, templates: Templates
) -> None:
    await templates.create()
    first = await world.create(template_id="mine", key="k")
    await world.delete(first.session_id)
    await templates.delete()
    again = await world.create(template_id="mine", key="k")
    assert (again.session_id, word(again)) == (first.session_id, "terminated")


async def test_a_session_takes_what_it_does_not_say_from_its_template(
    world: World, templates: Templates
) -> None:
    await templates.create(
        default_resources={"cpu": "2", "memory": "1Gi", "disk": "3Gi", "max_processes": 64},
        env_vars={"A": "template", "B": "template"},
        pre_installed_packages=["one>=1"],
    )
    session = await world.create(
        template_id="mine",
        resources={"cpu": "0.5"},
        env_vars={"B": "session"},
        dependencies=["two[x]==2"],
    )
    resources = session.resources
    assert (resources.cpu, resources.memory, resources.disk) == ("0.5", "1Gi", "3Gi")
    assert resources.max_processes == 64
    assert dict(session.env_vars) == {"A": "template", "B": "session"}
    assert only(world.runtime.specs).packages == ("one>=1", "two[x]==2")


async def test_an_update_does_not_reach_a_session_that_is_there(
    world: World, templates: Templates
) -> None:
    await templates.create(env_vars={"A": "1"}, pre_installed_packages=["one"])
    session = await world.create(template_id="mine")
    await templates.update(
        env_vars={"A": "2"},
        pre_installed_packages=["two"],
        default_resources={"memory": "2Gi"},
    )
    world.runtime.die(only(world.runtime.specs).sandbox_id)
    await world.reconciler.reconcile()
    recovered = await world.recovered(session.session_id, 2)

    assert (recovered.resources, recovered.env_vars) == (session.resources, session.env_vars)
    before, after = world.runtime.specs
    assert (after.packages, after.resources) == (before.packages, before.resources)
    assert after.packages == ("one",)
    assert (await world.create(template_id="mine")).resources.memory == "2Gi"
    assert world.runtime.specs[-1].packages == ("two",)


@pytest.mark.parametrize(
    ("template", "session", "detail"),
    [
        (
            {"security_context": {"max_processes": 64}},
            {"resources": {"max_processes": 65}},
            "Field 'resources.max_processes' must be at most 64, the limit of template 'mine'",
        ),
        (
            {"runtime_type": session_pb2.RuntimeType.docker},
            {},
            "template 'mine' needs the runtime docker, and this platform offers process",
        ),
        (
            {"pre_installed_packages": ["a"] * 60},
            {"dependencies": ["b"] * 5},
            "Field 'dependencies' must have at most 64 entries, with the 60 packages",
        ),
        (
            {"env_vars": {f"A{n}": "" for n in range(100)}},
            {"env_vars": {f"B{n}": "" for n in range(29)}},
            "Field 'env_vars' must have at most 128 entries",
        ),
    ],
)
async def test_what_the_template_does_not_allow_is_named(
    world: World,
    templates: Templates,
    template: dict[str, Any],
    session: dict[str, Any],
    detail: str,
) -> None:
    await templates.create(**template)
    error = await refusal(world.create(template_id="mine", **session))
    assert isinstance(error, InvalidParameter)
    assert detail in error.detail
    assert (await world.list()).total == 0


async def test_a_template_limits_the_default_too(world: World, templates: Templates) -> None:
    made = await templates.create(security_context={"max_processes": 40})
    assert made.default_resources.max_processes == 40
    session = await world.create(template_id="mine", resources={"max_processes": 33})
    assert session.resources.max_processes == 33


async def test_a_template_that_goes_while_a_session_is_made_from_it_is_not_found(
    world: World, templates: Templates, monkeypatch: pytest.MonkeyPatch
) -> None:
    await templates.create()
    read = TemplateStore.get

    async def removed_after(self: TemplateStore, template_id: str) -> Any:
        row = await read(self, template_id)
        await self.delete(template_id)
        return row

    monkeypatch.setattr(TemplateStore, "get", removed_after)
    error = await refusal(world.create(template_id="mine"))
    assert isinstance(error, NotFound)
    assert error.detail == "Template 'mine' does not exist"
    assert (await world.list()).total == 0
