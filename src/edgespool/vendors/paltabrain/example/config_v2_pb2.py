"""The messages of config_v2.proto. Made of it by tools/paltabrain_proto.py."""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = [
    "FILE",
    "Context",
    "ContextApplication",
    "ContextOs",
    "ContextUser",
    "EventHeader",
    "EventHeaderOnboarding",
    "EventHeaderParent",
    "EventPayload",
    "EventPayloadEveryType",
    "EventPayloadPageOpen",
    "EventPayloadPermissionsRequest",
    "EventPayloadReading",
    "EventPayloadSessionStart",
]

FILE = (
    b'\n\x0fconfig_v2.proto\x12\x1apalta'
    b'brain.event_schema.v2"\x8a\x01'
    b'\n\x12ContextApplication\x12\x13\n\x06'
    b'app_id\x18\x01 \x01(\tH\x00\x88\x01\x01\x12\x18\n\x0bapp'
    b'_version\x18\x02 \x01(\tH\x01\x88\x01\x01\x12\x19\n\x0ca'
    b'pp_platform\x18\x03 \x01(\tH\x02\x88\x01\x01B\t'
    b'\n\x07_app_idB\x0e\n\x0c_app_versio'
    b'nB\x0f\n\r_app_platform"U\n\tCo'
    b'ntextOs\x12\x14\n\x07os_name\x18\x01 \x01(\t'
    b'H\x00\x88\x01\x01\x12\x17\n\nos_version\x18\x02 \x01('
    b'\tH\x01\x88\x01\x01B\n\n\x08_os_nameB\r\n\x0b_o'
    b's_version"\x99\x02\n\x0bContextUse'
    b'r\x12\x14\n\x07user_id\x18\x01 \x01(\tH\x00\x88\x01\x01\x12'
    b'\x19\n\x0ccountry_code\x18\x02 \x01(\tH\x01\x88'
    b'\x01\x01\x12\x15\n\x08is_trial\x18\x03 \x01(\x08H\x02\x88\x01'
    b'\x01\x12\x16\n\tis_paying\x18\x04 \x01(\x08H\x03\x88\x01'
    b'\x01\x12C\n\x06labels\x18\x05 \x03(\x0b23.palt'
    b'abrain.event_schema.v2.C'
    b'ontextUser.LabelsEntry\x1a-'
    b'\n\x0bLabelsEntry\x12\x0b\n\x03key\x18\x01 \x01'
    b'(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x028\x01B\n\n'
    b'\x08_user_idB\x0f\n\r_country_co'
    b'deB\x0b\n\t_is_trialB\x0c\n\n_is_p'
    b'aying"\xb8\x01\n\x07Context\x12C\n\x0bapp'
    b'lication\x18\x01 \x01(\x0b2..paltabr'
    b'ain.event_schema.v2.Cont'
    b'extApplication\x121\n\x02os\x18\x02 \x01'
    b'(\x0b2%.paltabrain.event_sc'
    b'hema.v2.ContextOs\x125\n\x04use'
    b"r\x18\x03 \x01(\x0b2'.paltabrain.eve"
    b'nt_schema.v2.ContextUser'
    b'",\n\x11EventHeaderParent\x12\x17\n'
    b'\x0fparent_elements\x18\x01 \x03(\t"}'
    b'\n\x15EventHeaderOnboarding\x12'
    b'\x1a\n\ronboarding_id\x18\x01 \x01(\x12H\x00'
    b'\x88\x01\x01\x12\x1f\n\x12onboarding_versio'
    b'n\x18\x02 \x01(\tH\x01\x88\x01\x01B\x10\n\x0e_onboard'
    b'ing_idB\x15\n\x13_onboarding_ve'
    b'rsion"\x93\x01\n\x0bEventHeader\x12=\n'
    b'\x06parent\x18\x01 \x01(\x0b2-.paltabra'
    b'in.event_schema.v2.Event'
    b'HeaderParent\x12E\n\nonboardi'
    b'ng\x18\x02 \x01(\x0b21.paltabrain.ev'
    b'ent_schema.v2.EventHeade'
    b'rOnboarding"\x1a\n\x18EventPayl'
    b'oadSessionStart"8\n\x14Event'
    b'PayloadPageOpen\x12\x14\n\x07page_'
    b'id\x18\x01 \x01(\tH\x00\x88\x01\x01B\n\n\x08_page_i'
    b'd"d\n\x1eEventPayloadPermiss'
    b'ionsRequest\x12\x17\n\nis_grante'
    b'd\x18\x01 \x01(\x08H\x00\x88\x01\x01\x12\x11\n\x04type\x18\x02 \x01'
    b'(\tH\x01\x88\x01\x01B\r\n\x0b_is_grantedB\x07'
    b'\n\x05_type"S\n\x13EventPayloadR'
    b'eading\x12\x13\n\x06number\x18\x01 \x01(\x12H\x00'
    b'\x88\x01\x01\x12\x12\n\x05value\x18\x02 \x01(\tH\x01\x88\x01\x01B'
    b'\t\n\x07_numberB\x08\n\x06_value"\xcb\n\n'
    b'\x15EventPayloadEveryType\x12\x19'
    b'\n\x0cprop_boolean\x18\x01 \x01(\x08H\x00\x88\x01'
    b'\x01\x12\x19\n\x0cprop_decimal\x18\x02 \x01(\tH'
    b'\x01\x88\x01\x01\x12\x16\n\tprop_enum\x18\x03 \x01(\x12H'
    b'\x02\x88\x01\x01\x12\x19\n\x0cprop_integer\x18\x04 \x01'
    b'(\x12H\x03\x88\x01\x01\x12\x18\n\x0bprop_string\x18\x05'
    b' \x01(\tH\x04\x88\x01\x01\x12\x1b\n\x0eprop_timest'
    b'amp\x18\x06 \x01(\x12H\x05\x88\x01\x01\x12\x1a\n\x12prop_b'
    b'oolean_array\x18\x07 \x03(\x08\x12\x1a\n\x12pr'
    b'op_decimal_array\x18\x08 \x03(\t\x12\x17'
    b'\n\x0fprop_enum_array\x18\t \x03(\x12\x12'
    b'\x1a\n\x12prop_integer_array\x18\n '
    b'\x03(\x12\x12\x19\n\x11prop_string_array'
    b'\x18\x0b \x03(\t\x12\x1c\n\x14prop_timestamp'
    b'_array\x18\x0c \x03(\x12\x12_\n\x10prop_boo'
    b'lean_map\x18\r \x03(\x0b2E.paltabr'
    b'ain.event_schema.v2.Even'
    b'tPayloadEveryType.PropBo'
    b'oleanMapEntry\x12_\n\x10prop_de'
    b'cimal_map\x18\x0e \x03(\x0b2E.paltab'
    b'rain.event_schema.v2.Eve'
    b'ntPayloadEveryType.PropD'
    b'ecimalMapEntry\x12Y\n\rprop_e'
    b'num_map\x18\x0f \x03(\x0b2B.paltabra'
    b'in.event_schema.v2.Event'
    b'PayloadEveryType.PropEnu'
    b'mMapEntry\x12_\n\x10prop_intege'
    b'r_map\x18\x10 \x03(\x0b2E.paltabrain'
    b'.event_schema.v2.EventPa'
    b'yloadEveryType.PropInteg'
    b'erMapEntry\x12]\n\x0fprop_strin'
    b'g_map\x18\x11 \x03(\x0b2D.paltabrain'
    b'.event_schema.v2.EventPa'
    b'yloadEveryType.PropStrin'
    b'gMapEntry\x12c\n\x12prop_timest'
    b'amp_map\x18\x12 \x03(\x0b2G.paltabra'
    b'in.event_schema.v2.Event'
    b'PayloadEveryType.PropTim'
    b'estampMapEntry\x1a5\n\x13PropBo'
    b'oleanMapEntry\x12\x0b\n\x03key\x18\x01 \x01'
    b'(\t\x12\r\n\x05value\x18\x02 \x01(\x08:\x028\x01\x1a5\n'
    b'\x13PropDecimalMapEntry\x12\x0b\n\x03'
    b'key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01(\t'
    b':\x028\x01\x1a2\n\x10PropEnumMapEntry'
    b'\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02'
    b' \x01(\x12:\x028\x01\x1a5\n\x13PropIntegerM'
    b'apEntry\x12\x0b\n\x03key\x18\x01 \x01(\t\x12\r\n\x05'
    b'value\x18\x02 \x01(\x12:\x028\x01\x1a4\n\x12PropS'
    b'tringMapEntry\x12\x0b\n\x03key\x18\x01 \x01'
    b'(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x028\x01\x1a7\n'
    b'\x15PropTimestampMapEntry\x12\x0b'
    b'\n\x03key\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02 \x01'
    b'(\x12:\x028\x01B\x0f\n\r_prop_booleanB'
    b'\x0f\n\r_prop_decimalB\x0c\n\n_pro'
    b'p_enumB\x0f\n\r_prop_integerB'
    b'\x0e\n\x0c_prop_stringB\x11\n\x0f_prop'
    b'_timestamp"\x83\x03\n\x0cEventPayl'
    b'oad\x12G\n\x07event_1\x18\x01 \x01(\x0b24.p'
    b'altabrain.event_schema.v'
    b'2.EventPayloadSessionSta'
    b'rtH\x00\x12C\n\x07event_2\x18\x02 \x01(\x0b20.'
    b'paltabrain.event_schema.'
    b'v2.EventPayloadPageOpenH'
    b'\x00\x12M\n\x07event_3\x18\x03 \x01(\x0b2:.pal'
    b'tabrain.event_schema.v2.'
    b'EventPayloadPermissionsR'
    b'equestH\x00\x12B\n\x07event_4\x18\x04 \x01('
    b'\x0b2/.paltabrain.event_sch'
    b'ema.v2.EventPayloadReadi'
    b'ngH\x00\x12D\n\x07event_5\x18\x05 \x01(\x0b21.'
    b'paltabrain.event_schema.'
    b'v2.EventPayloadEveryType'
    b'H\x00B\x0c\n\nevent_typeb\x06proto3'
)

# Not the pool that the program shares: another module may have registered a file of this name there.
_pool: Any = descriptor_pool.DescriptorPool()
_pool.Add(descriptor_pb2.FileDescriptorProto.FromString(FILE))


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(name))


Context: Any = _class("paltabrain.event_schema.v2.Context")
ContextApplication: Any = _class("paltabrain.event_schema.v2.ContextApplication")
ContextOs: Any = _class("paltabrain.event_schema.v2.ContextOs")
ContextUser: Any = _class("paltabrain.event_schema.v2.ContextUser")
EventHeader: Any = _class("paltabrain.event_schema.v2.EventHeader")
EventHeaderOnboarding: Any = _class("paltabrain.event_schema.v2.EventHeaderOnboarding")
EventHeaderParent: Any = _class("paltabrain.event_schema.v2.EventHeaderParent")
EventPayload: Any = _class("paltabrain.event_schema.v2.EventPayload")
EventPayloadEveryType: Any = _class("paltabrain.event_schema.v2.EventPayloadEveryType")
EventPayloadPageOpen: Any = _class("paltabrain.event_schema.v2.EventPayloadPageOpen")
EventPayloadPermissionsRequest: Any = _class("paltabrain.event_schema.v2.EventPayloadPermissionsRequest")
EventPayloadReading: Any = _class("paltabrain.event_schema.v2.EventPayloadReading")
EventPayloadSessionStart: Any = _class("paltabrain.event_schema.v2.EventPayloadSessionStart")
