import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_ALLOW: _ClassVar[Verdict]
    VERDICT_INVALID_TOKEN: _ClassVar[Verdict]
    VERDICT_INSUFFICIENT_SCOPE: _ClassVar[Verdict]
    VERDICT_WRONG_AUDIENCE: _ClassVar[Verdict]
    VERDICT_ADDRESS_NOT_ALLOWED: _ClassVar[Verdict]
    VERDICT_RATE_LIMITED: _ClassVar[Verdict]
    VERDICT_UNDETERMINED: _ClassVar[Verdict]
    VERDICT_WRONG_TENANT: _ClassVar[Verdict]
VERDICT_UNSPECIFIED: Verdict
VERDICT_ALLOW: Verdict
VERDICT_INVALID_TOKEN: Verdict
VERDICT_INSUFFICIENT_SCOPE: Verdict
VERDICT_WRONG_AUDIENCE: Verdict
VERDICT_ADDRESS_NOT_ALLOWED: Verdict
VERDICT_RATE_LIMITED: Verdict
VERDICT_UNDETERMINED: Verdict
VERDICT_WRONG_TENANT: Verdict

class RequestContext(_message.Message):
    __slots__ = ("client_address", "method", "host", "path", "workload")
    CLIENT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    client_address: str
    method: str
    host: str
    path: str
    workload: str
    def __init__(self, client_address: _Optional[str] = ..., method: _Optional[str] = ..., host: _Optional[str] = ..., path: _Optional[str] = ..., workload: _Optional[str] = ...) -> None: ...

class ValidateTokenRequest(_message.Message):
    __slots__ = ("token_string", "required_scopes", "audience", "context", "tenant", "want_entry")
    TOKEN_STRING_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_SCOPES_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    WANT_ENTRY_FIELD_NUMBER: _ClassVar[int]
    token_string: str
    required_scopes: _containers.RepeatedScalarFieldContainer[str]
    audience: str
    context: RequestContext
    tenant: str
    want_entry: bool
    def __init__(self, token_string: _Optional[str] = ..., required_scopes: _Optional[_Iterable[str]] = ..., audience: _Optional[str] = ..., context: _Optional[_Union[RequestContext, _Mapping]] = ..., tenant: _Optional[str] = ..., want_entry: _Optional[bool] = ...) -> None: ...

class ValidatedToken(_message.Message):
    __slots__ = ("id", "tenant", "profile", "principal", "scopes", "audiences", "expire_time", "annotations", "hint", "tenants")
    class AnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    AUDIENCES_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    tenant: str
    profile: str
    principal: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    audiences: _containers.RepeatedScalarFieldContainer[str]
    expire_time: _timestamp_pb2.Timestamp
    annotations: _containers.ScalarMap[str, str]
    hint: str
    tenants: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., tenant: _Optional[str] = ..., profile: _Optional[str] = ..., principal: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ..., audiences: _Optional[_Iterable[str]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., annotations: _Optional[_Mapping[str, str]] = ..., hint: _Optional[str] = ..., tenants: _Optional[_Iterable[str]] = ...) -> None: ...

class ValidateTokenResponse(_message.Message):
    __slots__ = ("verdict", "token", "missing_scopes", "reason", "entry")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    MISSING_SCOPES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    verdict: Verdict
    token: ValidatedToken
    missing_scopes: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    entry: CacheEntry
    def __init__(self, verdict: _Optional[_Union[Verdict, str]] = ..., token: _Optional[_Union[ValidatedToken, _Mapping]] = ..., missing_scopes: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ..., entry: _Optional[_Union[CacheEntry, _Mapping]] = ...) -> None: ...

class CacheEntry(_message.Message):
    __slots__ = ("epoch", "position", "tags", "not_before_time")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_TIME_FIELD_NUMBER: _ClassVar[int]
    epoch: bytes
    position: int
    tags: _containers.RepeatedScalarFieldContainer[int]
    not_before_time: _timestamp_pb2.Timestamp
    def __init__(self, epoch: _Optional[bytes] = ..., position: _Optional[int] = ..., tags: _Optional[_Iterable[int]] = ..., not_before_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class WatchChangesRequest(_message.Message):
    __slots__ = ("cache_id", "sequence", "epoch", "position", "instance_id", "leaving")
    CACHE_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    cache_id: str
    sequence: int
    epoch: bytes
    position: int
    instance_id: str
    leaving: bool
    def __init__(self, cache_id: _Optional[str] = ..., sequence: _Optional[int] = ..., epoch: _Optional[bytes] = ..., position: _Optional[int] = ..., instance_id: _Optional[str] = ..., leaving: _Optional[bool] = ...) -> None: ...

class WatchChangesResponse(_message.Message):
    __slots__ = ("sequence", "epoch", "position", "lease", "changed", "floor", "time_lower", "time_upper", "instance_id")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    TIME_LOWER_FIELD_NUMBER: _ClassVar[int]
    TIME_UPPER_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: bytes
    position: int
    lease: _duration_pb2.Duration
    changed: _containers.RepeatedScalarFieldContainer[int]
    floor: int
    time_lower: _timestamp_pb2.Timestamp
    time_upper: _timestamp_pb2.Timestamp
    instance_id: str
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[bytes] = ..., position: _Optional[int] = ..., lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., changed: _Optional[_Iterable[int]] = ..., floor: _Optional[int] = ..., time_lower: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., time_upper: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., instance_id: _Optional[str] = ...) -> None: ...

class BatchValidateTokensRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[ValidateTokenRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[ValidateTokenRequest, _Mapping]]] = ...) -> None: ...

class BatchValidateTokensResponse(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[ValidateTokenResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[ValidateTokenResponse, _Mapping]]] = ...) -> None: ...
