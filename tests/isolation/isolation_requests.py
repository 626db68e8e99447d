"""A request for every endpoint of the core services that goes through, were it not for who sends it: what it is about
is there, belongs to the tenant, and is made anew where the call takes it away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from isolation_world import SECRET, SHARED, World, announced, archive

from micro.domain.dump import Digest
from micro.rpc.gen.envoy.service.discovery.v3 import discovery_pb
from micro.rpc.gen.grpc.health.v1 import health_pb
from micro.rpc.gen.grpc.reflection.v1 import reflection_pb
from micro.rpc.gen.grpc.reflection.v1alpha import reflection_pb as reflection_alpha_pb
from micro.rpc.gen.micro.auth.v1 import auth_pb as auth
from micro.rpc.gen.micro.broker.v1 import broker_pb as broker
from micro.rpc.gen.micro.config.v1 import config_pb as config
from micro.rpc.gen.micro.events.v1 import events_pb as events
from micro.rpc.gen.micro.network.v1 import network_pb as network
from micro.rpc.gen.micro.registry.v1 import registry_pb as registry
from micro.rpc.gen.micro.runtime.v1 import runtime_pb as runtime
from micro.rpc.gen.micro.store.v1 import store_pb as store
from micro.rpc.wkt import oneof

_A, _R, _N, _U = "/micro.auth.v1.", "/micro.registry.v1.Registry/", "/micro.network.v1.Network/", "/micro.runtime.v1."
_S = "/micro.store.v1."
_C = "/micro.config.v1.Config/"
_B = "/micro.broker.v1.Broker/"
_E = "/micro.events.v1."


@dataclass(frozen=True)
class About:
    """What one call is about.

    Attributes:
        tenant: whose things.
        field: what goes into the request's field of that name: the tenant, or nothing where a header names it.
        caller: id and namespace of who calls; empty for nobody.
    """

    world: World
    tenant: str
    field: str
    caller: tuple[str, str]

    @property
    def ann(self) -> str:
        """The tenant's user, who is also the one that calls as such."""
        return f"ann-{self.tenant}"

    @property
    def bob(self) -> str:
        """Another user of the tenant's, who calls nobody."""
        return f"bob-{self.tenant}"

    async def somebody(self) -> str:
        """An account of the tenant's that can be spared."""
        return await self.world.account(self.world.fresh(self.tenant, "guest"), self.tenant)

    async def workload(self, by: str) -> runtime.Service:
        name = await self.world.workload(self.tenant, by)
        return runtime.Service(name=name, namespace=self.field)

    async def uploaded(self, owner: str = "") -> str:
        """An upload to the tenant, the caller's own or that of another."""
        id_, namespace = self.caller or ("nobody", "micro")
        return await self.world.upload(f"{self.tenant}:{owner or f'{namespace}/{id_}'}")


Make = Callable[[About], Awaitable[Any]]


@dataclass(frozen=True)
class Case:
    """How an endpoint is called.

    Attributes:
        make: the request, or all of a stream's.
        fields: whether the request has a field for the namespace: then it is named that way too.
        of: the service, where the path does not tell.
        enough: when an endless answer may be left.
    """

    make: Make
    fields: bool = True
    of: str = ""
    enough: Callable[[list[Any]], bool] | None = None


def _plain(message: Callable[[About], Any], **options: Any) -> Case:
    async def make(about: About) -> Any:
        return message(about)

    return Case(make, **options)


def _rule(about: About, id_: str) -> auth.Rule:
    anything = auth.Resource(type="*", name="*", endpoint="*")
    return auth.Rule(id=id_, scope="*", resource=anything, access=auth.Access.GRANTED, namespace=about.field)


def _synced(action: Any) -> Callable[[list[Any]], bool]:
    return lambda messages: any(message.action == action for message in messages)


async def _inspect(about: About) -> Any:
    return auth.InspectRequest(token=await about.world.login((about.ann, about.tenant)))


async def _delete_account(about: About) -> Any:
    return auth.AccountsDeleteRequest(id=await about.somebody(), namespace=about.field)


async def _change_secret(about: About) -> Any:
    return auth.ChangeSecretRequest(id=await about.somebody(), namespace=about.field)


async def _scopes(about: About) -> Any:
    return auth.UpdateScopesRequest(id=await about.somebody(), scopes=["dev"], namespace=about.field)


async def _update_rule(about: About) -> Any:
    return auth.RulesUpdateRequest(rule=_rule(about, await about.world.rule(about.tenant)))


async def _delete_rule(about: About) -> Any:
    return auth.RulesDeleteRequest(id=await about.world.rule(about.tenant), namespace=about.field)


async def _revoke(about: About) -> Any:
    guest = await about.somebody()
    await about.world.login((guest, about.tenant))
    return auth.TokensRevokeRequest(account=guest, namespace=about.field)


async def _delete_namespace(about: About) -> Any:
    name = about.world.fresh(about.tenant)
    await about.world.as_root(f"{_A}Namespaces/Create", auth.NamespacesCreateRequest(name=name))
    return auth.NamespacesDeleteRequest(name=name, force=True)


async def _deregister(about: About) -> Any:
    node = await about.world.node(about.tenant, SHARED)
    return registry.DeregisterRequest(name=SHARED, namespace=about.field, node_id=node)


async def _deregister_other(about: About) -> Any:
    name = about.world.fresh(about.tenant)
    node = await about.world.node(about.tenant, name)
    return registry.DeregisterRequest(name=name, namespace=about.field, node_id=node)


def _register(about: About, name: str) -> Any:
    return registry.RegisterRequest(service=announced(about.field, name, about.world.fresh(about.tenant, "node")))


async def _create(about: About) -> Any:
    asked = runtime.Service(name=about.world.fresh(about.tenant, "svc"), namespace=about.field)
    return runtime.CreateRequest(service=asked, upload_id=await about.uploaded(), wait=True)


async def _create_of_others_upload(about: About) -> Any:
    asked = runtime.Service(name=about.world.fresh(about.tenant, "svc"), namespace=about.field)
    upload = await about.uploaded(f"{about.tenant}/{about.bob}")
    return runtime.CreateRequest(service=asked, upload_id=upload, wait=True)


async def _create_version(about: About) -> Any:
    service = await about.workload(about.bob)
    asked = runtime.Service(name=service.name, version="v2", namespace=about.field)
    return runtime.CreateRequest(service=asked, upload_id=await about.uploaded(), wait=True)


def _update(by: str) -> Make:
    async def make(about: About) -> Any:
        service = await about.workload(getattr(about, by))
        return runtime.UpdateRequest(service=service, upload_id=await about.uploaded(), wait=True)

    return make


def _delete(by: str) -> Make:
    async def make(about: About) -> Any:
        service = await about.workload(getattr(about, by))
        return runtime.DeleteRequest(name=service.name, namespace=about.field)

    return make


async def _purge(about: About) -> Any:
    return runtime.PurgeRequest(namespace=about.tenant)


_AUTH: Mapping[str, Case] = {
    f"{_A}Auth/Generate": _plain(
        lambda about: auth.GenerateRequest(id=about.world.fresh(about.tenant, "acc"), namespace=about.field)
    ),
    f"{_A}Auth/Inspect": Case(_inspect, fields=False),
    f"{_A}Auth/Token": _plain(
        lambda about: auth.TokenRequest(id=about.ann, secret=SECRET, namespace=about.tenant), fields=False
    ),
    f"{_A}Auth/Explain": _plain(
        lambda about: auth.ExplainRequest(
            account=about.ann, resource=f"service:{SHARED}:Shared.Call", namespace=about.field
        )
    ),
    f"{_A}Accounts/List": _plain(lambda about: auth.AccountsListRequest(namespace=about.field)),
    f"{_A}Accounts/Read": _plain(lambda about: auth.AccountsReadRequest(id=about.bob, namespace=about.field)),
    f"{_A}Accounts/Read own": _plain(lambda about: auth.AccountsReadRequest(id=about.ann, namespace=about.field)),
    f"{_A}Accounts/Delete": Case(_delete_account),
    f"{_A}Accounts/ChangeSecret": Case(_change_secret),
    f"{_A}Accounts/ChangeSecret own": _plain(
        lambda about: auth.ChangeSecretRequest(
            id=about.ann, old_secret=SECRET, new_secret=SECRET, namespace=about.field
        )
    ),
    f"{_A}Accounts/UpdateScopes": Case(_scopes),
    f"{_A}Rules/Create": _plain(
        lambda about: auth.RulesCreateRequest(rule=_rule(about, about.world.fresh(about.tenant, "rule")))
    ),
    f"{_A}Rules/Update": Case(_update_rule),
    f"{_A}Rules/Delete": Case(_delete_rule),
    f"{_A}Rules/List": _plain(lambda about: auth.RulesListRequest(namespace=about.field)),
    f"{_A}Tokens/List": _plain(lambda about: auth.TokensListRequest(account=about.bob, namespace=about.field)),
    f"{_A}Tokens/List own": _plain(lambda about: auth.TokensListRequest(account=about.ann, namespace=about.field)),
    f"{_A}Tokens/Revoke": Case(_revoke),
    f"{_A}Tokens/Revoke own": _plain(lambda about: auth.TokensRevokeRequest(account=about.ann, namespace=about.field)),
    f"{_A}Keys/Rotate": _plain(lambda about: auth.KeysRotateRequest(), fields=False),
    f"{_A}Keys/List": _plain(lambda about: auth.KeysListRequest(), fields=False),
    f"{_A}Namespaces/Create": _plain(
        lambda about: auth.NamespacesCreateRequest(name=about.world.fresh(about.tenant)), fields=False
    ),
    f"{_A}Namespaces/List": _plain(lambda about: auth.NamespacesListRequest(), fields=False),
    f"{_A}Namespaces/Delete": Case(_delete_namespace, fields=False),
    f"{_A}Namespaces/SetQuota": _plain(
        lambda about: auth.SetQuotaRequest(name=about.tenant, quota=auth.Quota(services=9, instances=9)), fields=False
    ),
    f"{_A}Audit/List": _plain(lambda about: auth.AuditListRequest(namespace=about.field)),
    f"{_A}Audit/List of all": _plain(lambda about: auth.AuditListRequest(namespace="*"), fields=False),
    f"{_A}Policy/Watch": _plain(
        lambda about: auth.PolicyWatchRequest(), fields=False, enough=_synced(auth.PolicyWatchResponse.Action.SYNCED)
    ),
    f"{_A}Setup/Begin": _plain(lambda about: auth.BeginRequest(), fields=False),
}

_WATCHED = _synced(registry.WatchResponse.Action.SYNCED)

_REGISTRY: Mapping[str, Case] = {
    f"{_R}GetService": _plain(lambda about: registry.GetServiceRequest(name=SHARED, namespace=about.field)),
    f"{_R}ListServices": _plain(lambda about: registry.ListServicesRequest(namespace=about.field)),
    f"{_R}ListServices of all": _plain(lambda about: registry.ListServicesRequest(namespace="*"), fields=False),
    f"{_R}Register": _plain(lambda about: _register(about, about.world.fresh(about.tenant, "svc"))),
    f"{_R}Register own": _plain(lambda about: _register(about, SHARED)),
    f"{_R}Register core": _plain(lambda about: _register(about, "auth")),
    f"{_R}Deregister": Case(_deregister_other),
    f"{_R}Deregister own": Case(_deregister),
    f"{_R}Watch": _plain(lambda about: registry.WatchRequest(namespace=about.field), enough=_WATCHED),
    f"{_R}Watch of all": _plain(lambda about: registry.WatchRequest(namespace="*"), fields=False, enough=_WATCHED),
}

_NETWORK: Mapping[str, Case] = {
    f"{_N}Routes": _plain(lambda about: network.RoutesRequest(namespace=about.field)),
    f"{_N}Routes of all": _plain(lambda about: network.RoutesRequest(namespace="*"), fields=False),
    f"{_N}Proxies": _plain(lambda about: network.ProxiesRequest(), fields=False),
    f"{_N}Sync": _plain(lambda about: network.SyncRequest(), fields=False),
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources": _plain(
        lambda about: discovery_pb.DeltaDiscoveryRequest(), fields=False, of="network"
    ),
}

_RUNTIME: Mapping[str, Case] = {
    f"{_U}Runtime/Create": Case(_create),
    f"{_U}Runtime/Create of another's upload": Case(_create_of_others_upload),
    f"{_U}Runtime/Create of another's service": Case(_create_version),
    f"{_U}Runtime/Read": _plain(lambda about: runtime.ReadRequest(namespace=about.field)),
    f"{_U}Runtime/Update": Case(_update("bob")),
    f"{_U}Runtime/Update own": Case(_update("ann")),
    f"{_U}Runtime/Delete": Case(_delete("bob")),
    f"{_U}Runtime/Delete own": Case(_delete("ann")),
    f"{_U}Runtime/Logs": _plain(lambda about: runtime.LogsRequest(name=SHARED, namespace=about.field)),
    f"{_U}Runtime/Logs of core": _plain(lambda about: runtime.LogsRequest(name="auth", namespace=about.field)),
    f"{_U}Runtime/Purge": Case(_purge, fields=False),
    f"{_U}Source/Upload": _plain(
        lambda about: [
            runtime.UploadRequest(name="svc", namespace=about.field, data=archive()[:20]),
            runtime.UploadRequest(data=archive()[20:]),
        ]
    ),
}


async def _renew(about: About) -> Any:
    name, holder = await about.world.lock(about.tenant)
    return store.RenewRequest(name=name, holder=holder, database=about.field)


async def _release(about: About) -> Any:
    name, holder = await about.world.lock(about.tenant)
    return store.ReleaseRequest(name=name, holder=holder, database=about.field)


async def _delete_record(about: About) -> Any:
    key = await about.world.record(about.tenant, about.world.fresh(about.tenant, "key"))
    return store.DeleteRequest(key=key, options=_things(about))


async def _delete_blob(about: About) -> Any:
    key = await about.world.blob(about.tenant, about.world.fresh(about.tenant, "blob"))
    return store.BlobStoreDeleteRequest(key=key, namespace=about.field)


def _things(about: About) -> store.Options:
    return store.Options(database=about.field, table="things")


def _new_record(about: About) -> store.Record:
    return store.Record(key=about.world.fresh(about.tenant, "key"))


async def _delete_setting(about: About) -> Any:
    path = await about.world.setting(about.tenant)
    return config.DeleteRequest(namespace=about.field, path=path)


async def _roll_back(about: About) -> Any:
    path = await about.world.setting(about.tenant)
    found = await about.world.as_root(f"{_C}History", config.HistoryRequest(namespace=about.tenant, path=path))
    return config.RollbackRequest(namespace=about.field, path=path, revision=found.revisions[0].revision)


def _set(about: About, *, secret: bool = False) -> config.SetRequest:
    path, options = about.world.fresh(about.tenant, "set"), config.Options(secret=secret)
    return config.SetRequest(namespace=about.field, path=path, value=config.Value(data="1"), options=options)


_IN_CLEAR = config.Options(secret=True)

_CONFIG: Mapping[str, Case] = {
    f"{_C}Get": _plain(lambda about: config.GetRequest(namespace=about.field)),
    f"{_C}Get in clear": _plain(lambda about: config.GetRequest(namespace=about.field, path="kept", options=_IN_CLEAR)),
    f"{_C}Set": _plain(_set),
    f"{_C}Set secret": _plain(lambda about: _set(about, secret=True)),
    f"{_C}Delete": Case(_delete_setting),
    f"{_C}List": _plain(lambda about: config.ListRequest(namespace=about.field)),
    f"{_C}History": _plain(lambda about: config.HistoryRequest(namespace=about.field)),
    f"{_C}Rollback": Case(_roll_back),
    f"{_C}Watch": _plain(lambda about: config.WatchRequest(namespace=about.field), enough=bool),
    f"{_C}Watch in clear": _plain(
        lambda about: config.WatchRequest(namespace=about.field, path="kept", options=_IN_CLEAR), enough=bool
    ),
    f"{_C}Rotate": _plain(lambda about: config.RotateRequest(), fields=False),
    f"{_C}Purge": _plain(lambda about: config.PurgeRequest(namespace=about.tenant), fields=False),
}

_STORE: Mapping[str, Case] = {
    f"{_S}Store/Read": _plain(
        lambda about: store.ReadRequest(
            key=f"kept-{about.tenant}", options=store.ReadOptions(database=about.field, table="things")
        )
    ),
    f"{_S}Store/Write": _plain(lambda about: store.WriteRequest(record=_new_record(about), options=_things(about))),
    f"{_S}Store/Delete": Case(_delete_record),
    f"{_S}Store/List": _plain(
        lambda about: store.ListRequest(options=store.ListOptions(database=about.field, table="things"))
    ),
    f"{_S}Store/Batch": _plain(
        lambda about: store.BatchRequest(
            database=about.field,
            table="things",
            operations=[
                store.Operation(does=oneof("read", f"kept-{about.tenant}")),
                store.Operation(does=oneof("write", _new_record(about))),
            ],
        )
    ),
    f"{_S}Store/Watch": _plain(lambda about: store.WatchRequest(database=about.field, table="things"), enough=bool),
    f"{_S}Store/Databases": _plain(lambda about: store.DatabasesRequest(), fields=False),
    f"{_S}Store/Tables": _plain(lambda about: store.TablesRequest(database=about.field)),
    f"{_S}BlobStore/Read": _plain(
        lambda about: store.BlobStoreReadRequest(key=f"kept-{about.tenant}", namespace=about.field)
    ),
    f"{_S}BlobStore/Write": _plain(
        lambda about: [
            store.BlobStoreWriteRequest(
                key=about.world.fresh(about.tenant, "blob"), options=store.BlobOptions(namespace=about.field)
            ),
            store.BlobStoreWriteRequest(data=b"x"),
        ]
    ),
    f"{_S}BlobStore/Stat": _plain(
        lambda about: store.BlobStoreStatRequest(key=f"kept-{about.tenant}", namespace=about.field)
    ),
    f"{_S}BlobStore/List": _plain(lambda about: store.BlobStoreListRequest(namespace=about.field)),
    f"{_S}BlobStore/Delete": Case(_delete_blob),
    f"{_S}Lock/Acquire": _plain(
        lambda about: store.AcquireRequest(name=about.world.fresh(about.tenant, "lock"), database=about.field)
    ),
    f"{_S}Lock/Renew": Case(_renew),
    f"{_S}Lock/Release": Case(_release),
    f"{_S}Leader/Campaign": _plain(
        lambda about: store.CampaignRequest(name=about.world.fresh(about.tenant, "election"), database=about.field),
        enough=bool,
    ),
    f"{_S}Backup/Dump": _plain(lambda about: store.DumpRequest(database=about.field)),
    f"{_S}Backup/Load": _plain(
        lambda about: [store.LoadRequest(database=about.field), store.LoadRequest(checksum=Digest().told())]
    ),
    f"{_S}Backup/Purge": _plain(lambda about: store.PurgeRequest(namespace=about.tenant), fields=False),
}

_BROKER: Mapping[str, Case] = {
    f"{_B}Publish": _plain(
        lambda about: broker.PublishRequest(topic="orders", message=broker.Message(body=b"x"), namespace=about.field)
    ),
    f"{_B}PublishBatch": _plain(
        lambda about: broker.PublishBatchRequest(
            topic="orders", messages=[broker.Message(body=b"x")], namespace=about.field
        )
    ),
    f"{_B}Subscribe": _plain(
        lambda about: broker.SubscribeRequest(topic="orders.*", queue="billing", namespace=about.field),
        enough=bool,
    ),
}

_ALL_EVENTS = events.Start(at=oneof("all", True))


def _group(message: Any, **fields: Any) -> Case:
    """About a group that is made for it."""

    async def make(about: About) -> Any:
        return message(
            topic=await about.world.event_topic(about.tenant), group="billing", namespace=about.field, **fields
        )

    return Case(make)


async def _delete_topic(about: About) -> Any:
    return events.TopicsDeleteRequest(topic=await about.world.event_topic(about.tenant), namespace=about.field)


_EVENTS: Mapping[str, Case] = {
    f"{_E}Stream/Publish": _plain(
        lambda about: events.PublishRequest(topic="orders", payload=b"x", namespace=about.field)
    ),
    f"{_E}Stream/PublishBatch": _plain(
        lambda about: events.PublishBatchRequest(
            topic="orders", events=[events.NewEvent(payload=b"x")], namespace=about.field
        )
    ),
    f"{_E}Stream/PublishEach": _plain(
        lambda about: [
            events.PublishEachRequest(topic="orders", events=[events.NewEvent(payload=b"x")], namespace=about.field)
        ],
        enough=lambda told: any(one.events for one in told),
    ),
    f"{_E}Stream/Consume": _plain(
        lambda about: [events.ConsumeRequest(topic="kept", from_=_ALL_EVENTS, auto_ack=True, namespace=about.field)],
        enough=lambda told: any(one.events for one in told),
    ),
    f"{_E}Events/Read": _plain(lambda about: events.ReadRequest(topic="kept", namespace=about.field)),
    f"{_E}Topics/List": _plain(lambda about: events.TopicsListRequest(namespace=about.field)),
    f"{_E}Topics/Info": _plain(lambda about: events.TopicsInfoRequest(topic="kept", namespace=about.field)),
    f"{_E}Topics/Configure": _plain(
        lambda about: events.TopicsConfigureRequest(
            topic="orders", retention=events.Retention(age=60), namespace=about.field
        )
    ),
    f"{_E}Topics/Delete": Case(_delete_topic),
    f"{_E}Topics/Purge": _plain(lambda about: events.TopicsPurgeRequest(namespace=about.tenant), fields=False),
    f"{_E}Groups/List": _plain(lambda about: events.GroupsListRequest(topic="kept", namespace=about.field)),
    f"{_E}Groups/Reset": _group(events.GroupsResetRequest, to=_ALL_EVENTS),
    f"{_E}Groups/Delete": _group(events.GroupsDeleteRequest),
    f"{_E}DeadLetters/List": _plain(
        lambda about: events.DeadLettersListRequest(topic="kept", group="billing", namespace=about.field)
    ),
    f"{_E}DeadLetters/Redrive": _group(events.DeadLettersRedriveRequest),
    f"{_E}DeadLetters/Drop": _group(events.DeadLettersDropRequest),
}

_STANDARD: Mapping[str, Case] = {
    "/grpc.health.v1.Health/Check": _plain(lambda about: health_pb.HealthCheckRequest(), fields=False, of="auth"),
    "/grpc.health.v1.Health/Watch": _plain(
        lambda about: health_pb.HealthCheckRequest(), fields=False, of="auth", enough=bool
    ),
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _plain(
        lambda about: reflection_pb.ServerReflectionRequest(message_request=_listed(reflection_pb)),
        fields=False,
        of="runtime",
    ),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _plain(
        lambda about: reflection_alpha_pb.ServerReflectionRequest(message_request=_listed(reflection_alpha_pb)),
        fields=False,
        of="runtime",
    ),
}


def _listed(module: Any) -> Any:
    return oneof("list_services", "*")


CASES: Mapping[str, Case] = {
    **_AUTH,
    **_REGISTRY,
    **_NETWORK,
    **_RUNTIME,
    **_STORE,
    **_CONFIG,
    **_BROKER,
    **_EVENTS,
    **_STANDARD,
}
"""By the path of the endpoint, and what sets the case apart from others of the same."""
