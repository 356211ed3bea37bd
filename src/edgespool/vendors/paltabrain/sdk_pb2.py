"""The messages of sdk.proto. Made of it by tools/paltabrain_proto.py."""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = [
    "FILE",
    "Batch",
    "BatchCommon",
    "BatchTelemetry",
    "Event",
    "EventCommon",
]

FILE = (
    b'\n\tsdk.proto\x12\x1bpaltabrain.'
    b'event_schema.sdk"\x85\x01\n\x0bEve'
    b'ntCommon\x12\x10\n\x08event_ts\x18\x01 \x01'
    b'(\x12\x12\x17\n\nsession_id\x18\x02 \x01(\x12H\x00'
    b'\x88\x01\x01\x12"\n\x15session_event_seq'
    b'_num\x18\x03 \x01(\x12H\x01\x88\x01\x01B\r\n\x0b_sess'
    b'ion_idB\x18\n\x16_session_event'
    b'_seq_num"b\n\x05Event\x128\n\x06com'
    b'mon\x18\x01 \x01(\x0b2(.paltabrain.e'
    b'vent_schema.sdk.EventCom'
    b'mon\x12\x0e\n\x06header\x18\x02 \x01(\x0c\x12\x0f\n\x07p'
    b'ayload\x18\x03 \x01(\x0c"\xa8\x01\n\x0bBatchCo'
    b'mmon\x12\x13\n\x0binstance_id\x18\x01 \x01('
    b'\t\x12\x10\n\x08batch_id\x18\x02 \x01(\t\x12\x19\n\x0cc'
    b'ountry_code\x18\x03 \x01(\tH\x00\x88\x01\x01\x12\x13'
    b'\n\x06locale\x18\x04 \x01(\tH\x01\x88\x01\x01\x12\x17\n\nu'
    b'tc_offset\x18\x05 \x01(\x12H\x02\x88\x01\x01B\x0f\n\r'
    b'_country_codeB\t\n\x07_locale'
    b'B\r\n\x0b_utc_offset"\xc0\x03\n\x0eBatc'
    b'hTelemetry\x12\x1b\n\x0eevents_dro'
    b'pped\x18\x01 \x01(\x12H\x00\x88\x01\x01\x12"\n\x15prev_'
    b'connection_speed\x18\x02 \x01(\tH\x01'
    b'\x88\x01\x01\x12\x1e\n\x11prev_request_time'
    b'\x18\x03 \x01(\x12H\x02\x88\x01\x01\x12#\n\x16events_re'
    b'porting_speed\x18\x04 \x01(\tH\x03\x88\x01\x01'
    b'\x12\x1c\n\x14serialization_errors'
    b'\x18\x05 \x03(\t\x12\x16\n\x0estorage_errors'
    b'\x18\x06 \x03(\t\x12\x19\n\x0cstorage_used\x18\x07'
    b' \x01(\tH\x04\x88\x01\x01\x12\x19\n\x0ctrigger_typ'
    b'e\x18\x08 \x01(\tH\x05\x88\x01\x01\x12"\n\x15time_sin'
    b'ce_last_batch\x18\t \x01(\x12H\x06\x88\x01\x01'
    b'B\x11\n\x0f_events_droppedB\x18\n\x16_'
    b'prev_connection_speedB\x14\n'
    b'\x12_prev_request_timeB\x19\n\x17_'
    b'events_reporting_speedB\x0f'
    b'\n\r_storage_usedB\x0f\n\r_trig'
    b'ger_typeB\x18\n\x16_time_since_'
    b'last_batch"\xc6\x01\n\x05Batch\x128\n\x06'
    b'common\x18\x01 \x01(\x0b2(.paltabrai'
    b'n.event_schema.sdk.Batch'
    b'Common\x12\x0f\n\x07context\x18\x02 \x01(\x0c\x12'
    b'2\n\x06events\x18\x03 \x03(\x0b2".paltab'
    b'rain.event_schema.sdk.Ev'
    b'ent\x12>\n\ttelemetry\x18\x04 \x01(\x0b2+'
    b'.paltabrain.event_schema'
    b'.sdk.BatchTelemetryb\x06pro'
    b'to3'
)

# Not the pool that the program shares: another module may have registered a file of this name there.
_pool: Any = descriptor_pool.DescriptorPool()
_pool.Add(descriptor_pb2.FileDescriptorProto.FromString(FILE))


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(name))


Batch: Any = _class("paltabrain.event_schema.sdk.Batch")
BatchCommon: Any = _class("paltabrain.event_schema.sdk.BatchCommon")
BatchTelemetry: Any = _class("paltabrain.event_schema.sdk.BatchTelemetry")
Event: Any = _class("paltabrain.event_schema.sdk.Event")
EventCommon: Any = _class("paltabrain.event_schema.sdk.EventCommon")
